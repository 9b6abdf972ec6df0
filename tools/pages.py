"""What the documentation's site has beside docs/: a hook of mkdocs, named in mkdocs.yml.

Pages that lie elsewhere in the repository (README, CHANGELOG, scenarios' own) are taken in, pages that repeat the code
are made from it, and links between all of them are turned to where they are on the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import partial
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
TAKEN_IN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "reports/reference/tables.svg": "assets/tables.svg",
    **{
        f"scenarios/redteam_scenarios/{name}/README.md": f"scenarios/{name}.md"
        for name in ("digits", "docstrings", "causal", "stealer")
    },
    **{f"scenarios/redteam_scenarios/published/{name}.toml": f"scenarios/{name}.toml" for name in ("clip-8", "glue")},
}
"""Path in the repository → path on the site, of what lies outside docs/."""
NOTEBOOKS = {"docs/notebooks/where-the-lock-lies.ipynb": "notebooks/where-the-lock-lies.md"}
"""Notebook → the page that is made of it; the file itself is on the site beside it."""
SCHEMA = ROOT / "reports" / "redteam_reports" / "results.schema.json"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is taken in and what is made."""
    for source, uri in TAKEN_IN.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    made = {
        "reference/commands.md": commands,
        "reference/python.md": python,
        "reference/results.md": results_file,
        "leaderboard.md": leaderboard,
        **{uri: partial(notebook, ROOT / source) for source, uri in NOTEBOOKS.items()},
    }
    for uri, make in made.items():
        files.append(File.generated(config, uri, content="\n".join(make()) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository into links to where they are on the site."""
    sources = {uri: source for source, uri in TAKEN_IN.items()}
    here = page.file.src_uri
    source = sources.get(here, f"docs/{here}")

    def turned(link: re.Match[str]) -> str:
        path, hash_, anchor = link[2].partition("#")
        if not path or ":" in path:
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        uri = (TAKEN_IN | NOTEBOOKS).get(target, target.removeprefix("docs/"))
        return f"{link[1]}({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{hash_}{anchor})"

    return re.sub(r"(\])\(([^()\s]+)\)", turned, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Gives the theme's search a name for screen readers, which it has not."""
    return output.replace('role="dialog">', 'role="dialog" aria-label="Search">', 1)


def commands() -> Iterator[str]:
    """Every command with its arguments and options, from the functions that typer reads."""
    from redteam.cli.main import COMMANDS

    yield "# Commands\n"
    yield "Every command, from the same functions that `--help` is made of. [Your own checkpoints](../shell.md) has"
    yield "examples, [plans and runs](../plans.md) what a run leaves behind.\n"
    for name, (target, _) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(import_module(module), attribute))
        command = typer.main.get_command(app)
        context = command.make_context(f"redteam {name}", [], resilient_parsing=True)
        yield f"## redteam {name}\n"
        yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
        yield f"{_paragraphs(command.help or '')}\n"
        yield "| argument or option | what it is |\n|---|---|"
        for parameter in command.get_params(context):
            if not getattr(parameter, "hidden", False):
                yield f"| {_spelled(parameter, context)} | {_told(parameter)} |"
        yield ""


def _spelled(parameter: Any, context: Any) -> str:
    """As it is written on the shell, with what stands for its value."""
    metavar = parameter.make_metavar(context)
    if parameter.param_type_name == "argument":
        return f"`{metavar}`"
    names = ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} `{metavar}`"


def _told(parameter: Any) -> str:
    told = " ".join((parameter.help or "").split())
    default = getattr(parameter, "show_default", True) and parameter.default
    shown = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    return escape(told, quote=False).replace("|", "\\|") + (f" Default: `{default}`." if shown else "")


def _paragraphs(text: str) -> str:
    return escape("\n\n".join(" ".join(part.split()) for part in text.split("\n\n")), quote=False)


def python() -> Iterator[str]:
    """What can be imported from `redteam`, from docstrings; then what plugins need of its rooms."""
    import redteam
    from redteam import symmetry

    yield "# Python\n"
    yield "What `redteam` exports, in the words of the sources. [From Python](../python.md) shows it at work.\n"
    yield "## redteam\n"
    yield from (f"::: {redteam._HOME[name]}.{name}" for name in redteam.__all__)
    yield "\n## redteam.symmetry\n"
    yield "Groups that defenses sample and attacks fit, for plugins.\n"
    groups = (group for group in symmetry.GROUPS.values() if group.__name__ in symmetry.__all__)
    functions = (symmetry.fit_gauges, symmetry.sample_gauges, symmetry.apply_gauges, symmetry.tied_cost)
    yield from (f"::: {one.__module__}.{one.__name__}" for one in (*groups, *functions))


def results_file() -> Iterator[str]:
    """The tables of the schema, row type by row type."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    yield "# The results file\n"
    yield "What `results.json` holds; `redteam report --schema` prints the same as JSON Schema. Every figure that a"
    yield "report shows is in it, and [a verdict](../verdicts.md) can be decided anew from it.\n"
    for name, table in {"results.json": schema, **schema["$defs"]}.items():
        told, _, listed = table.get("description", "").partition("Attributes:")
        words = _attributes(listed)
        yield f"## {name}\n"
        yield f"{_paragraphs(told)}\n"
        yield "| field | type | what it is |\n|---|---|---|"
        for field, kind in table["properties"].items():
            yield f"| `{field}` | {_type(kind)} | {escape(words.get(field, ''), quote=False)} |"
        yield ""


def _attributes(listed: str) -> dict[str, str]:
    """Field → words, of the part of a docstring that lists them; one entry may name several."""
    found: dict[str, str] = {}
    for names, told in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", listed, re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(told.split()).replace("|", "\\|"))
    return found


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in kind:
        return " or ".join(_type(one) for one in kind["anyOf"])
    if kind.get("type") == "array":
        items = kind.get("items") or {}
        return f"list of {_type(items)}" if items else "list"
    if isinstance(kind.get("additionalProperties"), dict):
        return f"object of {_type(kind['additionalProperties'])}"
    if "enum" in kind:
        return ", ".join(f"`{one}`" for one in kind["enum"])
    return str(kind.get("type") or (f"`{kind['const']}`" if "const" in kind else "any"))


def notebook(path: Path) -> Iterator[str]:
    """A notebook as it was kept: its text, its code, and what that showed."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            yield ""
            yield _shown(output)
        yield ""
    yield f'<a href="{path.name}" download>This page as a notebook</a>'


def _shown(output: dict[str, Any]) -> str:
    data = {form: "".join(lines) for form, lines in output.get("data", {}).items()}
    if "text/html" in data:
        return data["text/html"]
    if "image/png" in data:
        picture = data["image/png"].replace("\n", "")
        return f'<img src="data:image/png;base64,{picture}" alt="What the code above draws">'
    return f"```text\n{data.get('text/plain') or ''.join(output['text'])}\n```"


COLUMNS = ("#", "defense", "verdict", "theft", "fidelity", "price", "scenario", "threat model")


def leaderboard() -> Iterator[str]:
    """Every verdict of the reference runs in one table, which assets/leaderboard.js sorts and filters."""
    from redteam_reports import leaderboard as board

    from tools.reference import page_of

    results = page_of("tables")
    rows = [(place, row) for place, here in board.rows(results).items() for row in here]
    yield "---\nhide: [navigation, toc]\n---\n"
    yield "# Leaderboard\n"
    yield "Defenses that ship, against the gauntlet: ranked by *theft* in the worst case, the share of what the victim"
    yield "adds to a merge that the attacker gets, among those that keep the model's accuracy. Theft figures are lower"
    yield "bounds. [How a verdict comes about](verdicts.md) has the rules, [how to send a run in](submissions.md) the"
    yield "way onto such a table.\n"
    yield f'<div id="board" class="board" role="region" aria-label="Leaderboard" tabindex="0">{_table(rows)}</div>'


def _table(rows: Iterable[tuple[tuple[str, str], Any]]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    return f"<table class='ranks'><thead><tr>{heads}</tr></thead><tbody>{''.join(map(_line, rows))}</tbody></table>"


def _line(placed: tuple[tuple[str, str], Any]) -> str:
    (scenario, threat), row = placed
    rank = "" if row.rank is None else str(row.rank)
    words = " ".join((row.verdict.verdict, *row.verdict.flags))
    named = f"<code>{escape(row.verdict.defense)}</code>"
    cells = (rank, named, words, escape(row.theft), row.fidelity, escape(row.price), escape(scenario), escape(threat))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
