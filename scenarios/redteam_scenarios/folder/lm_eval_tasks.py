"""Tasks of lm-evaluation-harness by name: its prompts, choices and answers, written once as a dataset that we read.

The harness makes texts of documents; models are run and scored by us.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redteam.errors import BadInput
from redteam.tasks import Split
from redteam_scenarios.caching import cache_root, whole
from redteam_scenarios.folder.schema import LM_EVAL, TaskEntry
from redteam_scenarios.folder.tables import Row

_PACKAGE, _TESTED = "lm_eval", "0.4.13"
_KINDS = {"multiple_choice": "multiple-choice", "generate_until": "generation"}
"""What the harness calls its two kinds of tasks that are scored here → what we call them."""
_ABOUT = "task.json"
_MOST = 10_000  # documents of a split that are written
_FORMAT = 1  # of what is written


def written(name: str) -> Path:
    """The folder of Parquet with a task's documents, made where it is not there yet.

    Columns are `prompt`, `choices` (texts, and their places as labels) and `answer`.

    Args:
        name: As the file has it, `lm-eval:arc_easy`.

    Raises:
        BadInput: If the harness is not installed, has no such task, cannot load its data, or scores it by other means.
    """
    task = name.removeprefix(LM_EVAL)
    try:
        version = importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"{name} is a task of lm-evaluation-harness, which is not installed; pip install 'merge-redteam[lm-eval]'."
        ) from None
    address = hashlib.sha256(f"{task}\0{version}\0{_FORMAT}".encode()).hexdigest()[:32]
    folder = cache_root() / "folder" / f"lm-eval-{address}"
    if not folder.is_dir():
        with _in_a_sentence(name, version):
            loaded = _loaded(task, name)
            about, splits = _about(loaded, name), _splits(loaded, name)
        with whole(folder) as work:
            for split, rows in splits.items():
                _write(work / f"{split}-00000-of-00001.parquet", rows)
            (work / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    return folder


def settled(entry: TaskEntry, data: Iterable[Path]) -> TaskEntry:
    """An entry with the kind, and the pattern of answers, that the harness says; any other entry as it is.

    Raises:
        BadInput: If the file asks for another kind.
    """
    if not entry.data.startswith(LM_EVAL):
        return entry
    about = json.loads((next(iter(data)) / _ABOUT).read_text(encoding="utf-8"))
    if entry.kind not in (None, about["kind"]):
        raise BadInput(f'{entry.data} is a task of {about["kind"]}, not of {entry.kind}; leave kind = "…" out.')
    return entry.model_copy(update={"kind": about["kind"], "pattern": entry.pattern or about["pattern"]})


@contextmanager
def _in_a_sentence(name: str, version: str) -> Iterator[None]:
    """Turns what the harness, or the library of its data, raises into a sentence."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        hint = "" if version == _TESTED else f"; this was tested with {_PACKAGE} {_TESTED}, and {version} is installed"
        raise BadInput(
            f"{name} cannot be loaded by lm-evaluation-harness ({why}); its data are fetched from the hub, so connect "
            f"once{hint}."
        ) from None


def _loaded(task: str, name: str) -> Any:
    from difflib import get_close_matches

    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    entry = manager.task_index.get(task)
    if entry is None or task not in manager.all_subtasks:
        among = get_close_matches(task, manager.all_subtasks, 3)
        what = "a group of tasks" if entry is not None else "no task"
        hint = f"; did you mean {', '.join(among)}?" if among else "; `lm-eval ls tasks` prints those that there are."
        raise BadInput(f"{name} is {what} of lm-evaluation-harness; name a single task{hint}")
    settings = entry.cfg or {}
    if (settings.get("dataset_kwargs") or {}).get("trust_remote_code") or settings.get("unsafe_code"):
        raise BadInput(f"{name} runs code that comes with its data or its answers, which is never run; name another.")
    return manager.load(task)["tasks"][task]


def _about(task: Any, name: str) -> dict[str, Any]:
    """The kind of a task, and what of a text that is written counts.

    Raises:
        BadInput: If its scores would not be those of the kind.
    """
    config = task.config
    kind = _KINDS.get(str(task.OUTPUT_TYPE))
    if kind is None:
        raise BadInput(
            f"{name} is scored by {task.OUTPUT_TYPE}, which is not done here; expected multiple_choice or "
            'generate_until. Texts alone are scored by kind = "perplexity".'
        )
    if callable(config.process_results):
        raise BadInput(f"{name} is scored by code of its own, which is not done here; name another task.")
    if task.multiple_input or task.multiple_target:
        what = "its choices in the prompts" if task.multiple_input else "several right answers"
        raise BadInput(f"{name} has {what}, which is not done here; write its documents to JSON lines in another form.")
    filters = ((config.filter_list or [{}])[0].get("filter") or []) if kind == "generation" else []
    if unknown := {each["function"] for each in filters} - {"regex", "take_first"}:
        raise BadInput(f"{name} changes answers by {', '.join(sorted(unknown))}, which is not done here; name another.")
    patterns = [each["regex_pattern"] for each in filters if each["function"] == "regex"]
    return {"kind": kind, "pattern": patterns[0] if patterns else "", "task": name}


def _splits(task: Any, name: str) -> dict[Split, list[Row]]:
    task.set_fewshot_seed(1234)  # the harness' own
    given: dict[Split, Any] = {"train": task.training_docs(), "validation": task.validation_docs()}
    given["test"] = task.test_docs()
    found = {split: docs for split, docs in given.items() if docs is not None and len(docs)}
    if "train" not in found and "validation" in found:  # what is chosen on and trained on is held out of one
        found = {"train": found["validation"], **{split: docs for split, docs in found.items() if split == "test"}}
    made: dict[Split, list[Row]] = {}
    for split, docs in found.items():
        places = range(0, len(docs), -(-len(docs) // _MOST))
        made[split] = [_row(task, docs[place], name) for place in places]
    return made


def _row(task: Any, doc: dict[str, Any], name: str) -> Row:
    """A document as the harness would show it to a model."""
    shots = task.config.num_fewshot or 0
    context = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "generate_until":
        text = task.doc_to_choice(doc)[target] if task.config.doc_to_choice is not None else target
        return {"prompt": context, "answer": f"{task.config.target_delimiter}{text}"}
    requests = task.construct_requests(doc=doc, ctx=context, metadata=(name, 0, 1))
    choices = task.doc_to_choice(doc)
    texts = [request.arguments[1] for request in requests[: len(choices)]]
    place = choices.index(target) if isinstance(target, str) else int(target)
    if not 0 <= place < len(choices):
        raise BadInput(f"{name} has a document whose answer, {target!r}, is none of its choices; name another task.")
    # Blanks at the end of a prompt belong to what comes behind it, as the harness has them.
    prompt = context.rstrip()
    behind = context[len(prompt) :]
    return {
        "prompt": prompt,
        "choices": {"text": [behind + text for text in texts], "label": [str(n) for n in range(len(texts))]},
        "answer": str(place),
    }


def _write(file: Path, rows: list[Row]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), file)
