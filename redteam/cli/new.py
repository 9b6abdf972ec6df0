"""`redteam new KIND NAME`: writes a plugin that works, and its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from redteam.errors import BadInput, UnknownName, UnwritableOutput
from redteam.plugins.reference import Reference

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="attack, defense or merger.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case words joined by hyphens.")],
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path(),
) -> None:
    """Write a working plugin of at most 30 lines, and its test, to start from."""
    if kind not in _PLUGINS:
        raise UnknownName.among("kind of plugin to write", kind, _PLUGINS)
    stem = _stem(name)
    values = {"name": name, "stem": stem, "Class": stem.title().replace("_", ""), "Kind": kind.title(), "kind": kind}
    files = {
        out / f"{stem}.py": Template(_PLUGINS[kind]).substitute(values),
        out / f"test_{stem}.py": Template(_TEST).substitute(values),
    }
    for file in files:
        if file.exists():
            raise UnwritableOutput(f"{file} exists already; choose another name or another folder (--out).")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
    except OSError as error:
        raise UnwritableOutput(f"{out} cannot be written ({error.strerror}); name another folder (--out).") from None
    plugin, test = files
    use = {"attack": "--defense rotation --attack", "defense": "--attack gauge-fit --defense", "merger": "--merger"}
    written = shlex.quote(str(Reference(f"{plugin}@{name}")))
    typer.echo(f"Wrote {plugin} and {test}. Next:")
    typer.echo(f"  redteam check {written}")
    typer.echo(f"  pytest {shlex.quote(str(test))}")
    typer.echo(f"  redteam run {use[kind]} {written}")


def _stem(name: str) -> str:
    """The name as a module and a function are called.

    Raises:
        BadInput: If it is no name for a plugin, or one that Python or an installed module has taken.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"A plugin's name is lower-case words joined by hyphens, not {name!r}; write for example my-own."
        )
    stem = name.replace("-", "_")
    if keyword.iskeyword(stem):
        raise BadInput(f"{name!r} is a word of Python's own; choose another name.")
    if importlib.util.find_spec(stem) is not None:
        raise BadInput(
            f"{name!r} is the name of a Python module already, which a file {stem}.py would hide; choose another."
        )
    return stem


_ATTACK = '''"""$Class: undoes rotations of heads. (This line is what redteam lists; say what your attack does.)"""

from redteam import AttackerView, Checkpoint, Needs, attack
from redteam.anatomy import Sites
from redteam.symmetry import Orthogonal, fit_gauges


@attack(
    "$name",
    breaks={("qk", Orthogonal), ("vo", Orthogonal)},  # each is planted in every evaluation and has to come off
    needs=Needs.ANCHOR,  # what it asks of its view beyond the protected model
    keeps_function=True,  # its result computes what the protected model does
)
def $stem(view: AttackerView, *, sites: Sites = ("qk", "vo")) -> Checkpoint:
    """The rotation of every head that brings it closest to the base.

    Args:
        view: Grants the protected model and the base.
        sites: Kinds of sites to fit.
    """
    return fit_gauges(view.protected, view.anchor, sites, Orthogonal())
'''

_DEFENSE = '''"""$Class: every head in a secret basis. (This line is what redteam lists; say what your defense does.)"""

from redteam import Checkpoint, DefenderView, defense
from redteam.anatomy import Sites
from redteam.symmetry import Orthogonal


@defense(
    "$name",
    exact=True,  # the protected model computes what the victim does
    keyed=True,  # it draws on a key, so that it is tried under several
    weakened={"sites": ("vo",)},  # settings under which an attack made for it has to succeed
)
def $stem(view: DefenderView, *, sites: Sites = ("qk", "vo")) -> Checkpoint:
    """Rotations and reflections, drawn under the key.

    Args:
        view: The victim and its key.
        sites: Kinds of sites to lock.
    """
    return view.lock(sites, Orthogonal())
'''

_MERGER = '''"""$Class: base plus λ · mean task vector. (This line is what redteam lists; say what yours does.)"""

from typing import Annotated

from redteam import Checkpoint, MergerView, Range, merger


@merger("$name", tunable="coefficient")  # chosen from its range on the merge of the attacker's own experts
def $stem(view: MergerView, *, coefficient: Annotated[float, Range(0.05, 3.0)] = 1.0) -> Checkpoint:
    """θ₀ + λ · mean of τ, in float64.

    Args:
        view: The experts and the base.
        coefficient: λ.
    """
    merged = {}
    for name, experts in view.shared():
        start = view.base[name].double()
        moves = [expert[name].double() - start for expert in experts]
        merged[name] = (start + coefficient * sum(moves) / len(moves)).to(view.base.dtype(name))
    return view.base.replace(merged)
'''

_PLUGINS = {"attack": _ATTACK, "defense": _DEFENSE, "merger": _MERGER}

_TEST = '''"""Holds $name to the contract of every $kind; what it promises beyond that is yours to add."""

from pathlib import Path

import pytest

from redteam.plugins.reference import Reference
from redteam.testing import ${Kind}Contract


class Test$Class(${Kind}Contract):
    @pytest.fixture
    def plugin(self) -> Reference:
        return Reference(f"{Path(__file__).with_name('$stem.py')}@$name")
'''
