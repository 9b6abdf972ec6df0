"""`redteam show NAME`: one plugin in full. It is imported, unlike by `redteam list`."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from redteam.cli import completion
from redteam.cli.printing import Json, print_json
from redteam.errors import UnknownName
from redteam.plugins.contracts import (
    AttackSpec,
    DefenseSpec,
    MergerSpec,
    ReportSpec,
    ScenarioSpec,
    Spec,
    spec_of,
)
from redteam.plugins.files import module_from
from redteam.plugins.reference import Reference, toml_text
from redteam.plugins.registry import REGISTRIES, REPORTS, SCENARIOS, Listed, Registry
from redteam.plugins.settings import Setting, bind, settings_of
from redteam.plugins.shipped import KINDS, shipped, shipped_file
from redteam.threat import THREAT_MODELS, threat_model


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=completion.ANYTHING,
            help="A plugin, plan, gauntlet or threat model, path/to/file.py@name, or a scenario's file.",
        ),
    ],
    why: Annotated[
        str | None,
        typer.Option(metavar="DEFENSE", help="NAME is a run's folder: why its verdict on this defense is what it is."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a plugin, a plan, a gauntlet or a threat model: what it does, claims and needs, and its settings.

    With --why DEFENSE, NAME is the folder of a run, or its results.json: the way from the verdict on that defense back
    to the merges.
    """
    if why is not None:
        from redteam.cli.why import why as reasons
        from redteam.evaluation.results import Results

        path = Path(name)
        results = Results.read(path.parent if path.name == "results.json" else path)
        told = reasons(results, why)
        if as_json:
            print_json([one.model_dump(mode="json", by_alias=True) for one in results.verdicts if one.defense == why])
        else:
            typer.echo(told)
        return
    shown = found(name)
    if as_json:
        print_json([one.as_data() for one in shown])
    else:
        typer.echo("\n\n".join(str(one) for one in shown))


@dataclass(frozen=True)
class Shown:
    """What is said of one plugin, plan, gauntlet or threat model.

    Attributes:
        kind: `"attack"`, …, `"plan"`, `"gauntlet"` or `"threat"`.
        name: Its name, or where its file lies.
        facts: Labels and what they say, in order.
        text: Its documentation; of a plan or gauntlet what is in it.
        settings: Its settings, `None` where it can have none.
    """

    kind: str
    name: str
    facts: tuple[tuple[str, str], ...]
    text: str = ""
    settings: tuple[Setting, ...] | None = None

    def __str__(self) -> str:
        width = max([9, *(len(label) for label, _ in self.facts)])
        lines = [f"{self.kind} {self.name}", *(f"  {label:<{width}} {value}" for label, value in self.facts)]
        if self.text:
            lines += ["", *(f"  {line}".rstrip() for line in self.text.splitlines())]
        if self.settings is not None:
            lines += ["", "  settings" if self.settings else "  no settings"]
            lines += [f"    {_setting(setting)}" for setting in self.settings]
        return "\n".join(lines)

    def as_data(self) -> dict[str, Any]:
        """The same as plain values."""
        settings = [
            {
                "name": setting.name,
                "type": setting.type_text,
                "required": setting.required,
                "default": None if setting.required or setting.default is None else toml_text(setting.default),
                "within": None if setting.range is None else [setting.range.low, setting.range.high],
            }
            for setting in self.settings or ()
        ]
        facts = dict(self.facts)
        return {"kind": self.kind, "name": self.name, "facts": facts, "text": self.text, "settings": settings}


def found(text: str) -> tuple[Shown, ...]:
    """Each plugin, plan, gauntlet or threat model of that name.

    Raises:
        UnknownName: If there is none.
    """
    # An extension may have dots in it, which no other plugin's name has.
    reference = Reference(text) if text in REPORTS else Reference.parse(text)
    bare = Reference(reference.name)
    if reference.is_data:
        return (_data(bare),)
    if reference.file:
        specs = [spec for value in vars(module_from(Path(bare.file))).values() if (spec := spec_of(value))]
        kinds = [spec.kind for spec in specs if spec.name == bare.plugin]
        if not kinds:
            raise UnknownName.among(f"plugin in {bare.file}", bare.plugin, {spec.name for spec in specs})
        return tuple(_plugin(REGISTRIES[kind], bare) for kind in dict.fromkeys(kinds))
    blocks = [_plugin(registry, bare) for registry in REGISTRIES.values() if bare.name in registry]
    files = [one for kind in KINDS for one in shipped(kind)]
    blocks += [_file(one) for one in files if one.name == bare.name]
    if bare.name in THREAT_MODELS:
        blocks.append(_threat(text))
    if not blocks:
        known = {name for registry in REGISTRIES.values() for name in registry} | {one.name for one in files}
        raise UnknownName.among("plugin, plan, gauntlet or threat model", bare.name, known | {*THREAT_MODELS})
    return tuple(blocks)


def _plugin(registry: Registry[Any], reference: Reference) -> Shown:
    plugin = registry.find(reference)
    facts = [("package", plugin.origin), *_claims(plugin.spec)]
    writes = isinstance(plugin.spec, ReportSpec)
    settings = None if writes else tuple(settings_of(plugin.function).values())
    if isinstance(plugin.spec, ScenarioSpec) and not any(one.required for one in settings or ()):
        facts += _about(plugin.spec, bind(plugin.function, {}))
    text = inspect.getdoc(plugin.function) or inspect.getdoc(sys.modules[plugin.function.__module__]) or ""
    return Shown(registry.kind, reference.name, tuple(facts), text, settings)


def _data(reference: Reference) -> Shown:
    """A file that a scenario reads."""
    plugin = SCENARIOS.load(reference)
    facts = (("reader", plugin.spec.name), *_about(plugin.spec, plugin.settings))
    return Shown("scenario", reference.name, facts)


def _about(spec: ScenarioSpec, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [] if spec.about is None else list(spec.about(**settings))


def _claims(spec: Spec) -> Iterator[tuple[str, str]]:
    if isinstance(spec, AttackSpec):
        yield "role", spec.role + (", part of every evaluation" if spec.always else "")
        breaks = sorted(f"{getattr(group, 'name', group.__name__)} at {kind}" for kind, group in spec.breaks)
        yield "breaks", ", ".join(breaks) or "claims to break no kind of lock"
        yield "needs", ", ".join(str(need.name).lower() for need in spec.needs) or "nothing but the protected weights"
        if spec.targets:
            yield "targets", ", ".join(spec.targets)
    elif isinstance(spec, DefenseSpec):
        whose = ", to whoever holds the key" if spec.sealed else ""
        yield "exact", f"yes, the function stays the same{whose}" if spec.exact else "no, the function changes"
        yield "keyed", "yes" if spec.keyed else "no"
        if spec.sealed:
            yield "sealed", "yes: what it releases does not run alone; judged under threat models that say so"
        if spec.prepares:
            yield "prepares", "yes: what follows it in a chain is measured against what it made of the victim"
        if spec.adapts:
            yield "adapts", "yes, to a smaller group where an architecture does not allow its own, and says so"
    elif isinstance(spec, MergerSpec):
        if spec.needs:
            yield "needs", f"{', '.join(str(need.name).lower() for need in spec.needs)} of every expert's task"
        if spec.tunable:
            yield "tuned", f"{spec.tunable}, on the companions-only merge"
        if spec.whole:
            yield "whole", "keeps every expert whole: shown beside verdicts with what it costs, and counted by none"
    if isinstance(spec, DefenseSpec) and spec.claim:
        yield "claim", f"{spec.claim} Said there, not here."
    if spec.paper:
        yield "paper", spec.paper


def _setting(setting: Setting) -> str:
    default = "required" if setting.required else f"default {_value(setting.default)}"
    where = f", within {setting.range}" if setting.range is not None else ""
    return f"{setting.name}: {setting.type_text}, {default}{where}"


def _threat(text: str) -> Shown:
    model = threat_model(text)
    grants = ", ".join(str(need.name).lower() for need in model.grants)
    settings = settings_of(THREAT_MODELS[Reference.parse(text).name])
    return Shown("threat", model.name, (("grants", grants),), textwrap.fill(model.words, 78), tuple(settings.values()))


def _value(value: object) -> str:
    return "none" if value is None else toml_text(value)


def _file(one: Listed) -> Shown:
    file = shipped_file(one.kind, one.name)
    facts = (("package", one.package), ("file", str(file)))
    return Shown(one.kind, one.name, facts, file.read_text(encoding="utf-8"))
