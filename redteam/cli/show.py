"""`redteam show NAME`: one plugin in full. It is imported, unlike by `redteam list`."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

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
            metavar="NAME", help="A plugin, plan, gauntlet or threat model, path/to/file.py@name, or a scenario's file."
        ),
    ],
    why: Annotated[
        str | None,
        typer.Option(metavar="DEFENSE", help="NAME is a run's folder: why its verdict on this defense is what it is."),
    ] = None,
) -> None:
    """Show a plugin, a plan, a gauntlet or a threat model: what it does, claims and needs, and its settings.

    With --why DEFENSE, NAME is the folder of a run, or its results.json: the way from the verdict on that defense back
    to the merges.
    """
    if why is not None:
        from redteam.cli.why import why as reasons
        from redteam.evaluation.results import Results

        path = Path(name)
        typer.echo(reasons(Results.read(path.parent if path.name == "results.json" else path), why))
        return
    typer.echo("\n\n".join(described(name)))


def described(text: str) -> tuple[str, ...]:
    """One block of text for each plugin, plan, gauntlet or threat model of that name.

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


def _plugin(registry: Registry[Any], reference: Reference) -> str:
    found = registry.find(reference)
    lines = [f"{registry.kind} {reference.name}", f"  package   {found.origin}"]
    lines += [f"  {label:<9} {value}" for label, value in _claims(found.spec)]
    if isinstance(found.spec, ScenarioSpec) and not any(one.required for one in settings_of(found.function).values()):
        lines += _about(found.spec, bind(found.function, {}))
    documentation = inspect.getdoc(found.function) or inspect.getdoc(sys.modules[found.function.__module__]) or ""
    if documentation:
        lines += ["", *(f"  {line}".rstrip() for line in documentation.splitlines())]
    if not isinstance(found.spec, ReportSpec):
        settings = settings_of(found.function)
        lines += ["", "  settings" if settings else "  no settings"]
        lines += [f"    {_setting(setting)}" for setting in settings.values()]
    return "\n".join(lines)


def _data(reference: Reference) -> str:
    """A file that a scenario reads."""
    plugin = SCENARIOS.load(reference)
    lines = [f"scenario {reference.name}", f"  reader    {plugin.spec.name}"]
    return "\n".join([*lines, *_about(plugin.spec, plugin.settings)])


def _about(spec: ScenarioSpec, settings: Mapping[str, Any]) -> list[str]:
    if spec.about is None:
        return []
    said = list(spec.about(**settings))
    width = max([9, *(len(label) for label, _ in said)])
    return [f"  {label:<{width}} {value}" for label, value in said]


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


def _threat(text: str) -> str:
    model = threat_model(text)
    grants = ", ".join(str(need.name).lower() for need in model.grants)
    settings = settings_of(THREAT_MODELS[Reference.parse(text).name])
    return "\n".join(
        [
            f"threat {model.name}",
            f"  grants    {grants}",
            "",
            *(f"  {line}" for line in textwrap.wrap(model.words, 78)),
            "",
            "  settings" if settings else "  no settings",
            *(f"    {_setting(setting)}" for setting in settings.values()),
        ]
    )


def _value(value: object) -> str:
    return "none" if value is None else toml_text(value)


def _file(one: Listed) -> str:
    file = shipped_file(one.kind, one.name)
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(
        [
            f"{one.kind} {one.name}",
            f"  package   {one.package}",
            f"  file      {file}",
            "",
            *(f"  {x}".rstrip() for x in lines),
        ]
    )
