"""Short texts with labels: first sentences of what docstrings say, without the words that give the answer away."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from redteam_scenarios.docstrings.reading import SUMMARY, Docstring, docstrings, entries, sections
from redteam_scenarios.docstrings.recipe import TASKS, Recipe

_ROLE = re.compile(r":\w+:`~?([^`<]*?)\s*(?:<[^`]*>)?`")  # of reStructuredText: the words that are shown
_MARKUP = re.compile(r"[`*]+|\|[^|\s]*\|_?")
_SENTENCE = re.compile(r".+?[.!?](?=\s|$)")
_SHAPED = re.compile(r"(?:nd|np\.nd|numpy\.nd)?array|\(.*\)\s*(?:nd)?array|sparse", re.IGNORECASE)
_TYPES = {
    "bool": "bool",
    "boolean": "bool",
    "float": "float",
    "scalar": "float",
    "int": "int",
    "integer": "int",
    "str": "str",
    "string": "str",
}


@dataclass(frozen=True)
class Text:
    """A text with the answer to what a task asks.

    Attributes:
        module: Where it stands.
        text: What is shown.
        label: The answer.
    """

    module: str
    text: str
    label: str


def collected(recipe: Recipe) -> dict[str, list[Text]]:
    """Task → its texts, in the order of packages and modules, each text once.

    Raises:
        BadInput: If a package is not installed.
    """
    found: dict[str, list[Text]] = {task: [] for task in TASKS}
    for package in recipe.packages:
        for docstring in docstrings(package):
            for task, text, label in _told(docstring):
                if label in TASKS[task].classes:
                    found[task].append(Text(docstring.module, shown(task, text), label))
    return {task: distinct(each for each in found[task] if len(each.text.split()) >= recipe.words) for task in TASKS}


def shown(task: str, text: str) -> str:
    """The first sentence of a text, without markup and without the words that give the task's answer away."""
    plain = " ".join(_MARKUP.sub(" ", _ROLE.sub(r"\1", text)).split())
    sentence = _SENTENCE.match(plain)
    removed = rf"(?<!\w)(?:{TASKS[task].removed})(?!\w)"
    return " ".join(re.sub(removed, " ", sentence[0] if sentence else plain, flags=re.IGNORECASE).split())


def distinct(texts: Iterable[Text]) -> list[Text]:
    """Each text once, where it stands first, whatever its case, figures and punctuation; none that has two labels."""
    first: dict[str, Text] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    for each in texts:
        letters = re.sub(r"[\W\d_]", "", each.text.casefold())
        labels[letters].add(each.label)
        first.setdefault(letters, each)
    return [each for letters, each in first.items() if len(labels[letters]) == 1]


def type_named(written: str) -> str:
    """The class of `types` that a parameter's type belongs to; empty if it is none of them, or may be of several."""
    kind = re.split(r",(?![^(]*\))", written.strip("`"), maxsplit=1)[0].strip()
    if written.startswith("{"):
        return "str" if re.match(r"\{\s*['\"]", written) else ""
    if re.search(r"\bor\b|\|", kind):
        return ""
    return "array" if _SHAPED.match(kind) else _TYPES.get(kind.lower(), "")


def _told(docstring: Docstring) -> Iterator[tuple[str, str, str]]:
    """Task, text and label of all that a docstring says."""
    for title, body in sections(docstring.text):
        if title == SUMMARY:
            summary = body.strip().partition("\n\n")[0]
            yield "parts", summary, "summary"
            yield "libraries", summary, docstring.package
        elif title in ("Parameters", "Returns"):
            for kind, text in entries(body):
                yield "parts", text, title.lower().removesuffix("s")
                if title == "Parameters":
                    yield "types", text, type_named(kind)
