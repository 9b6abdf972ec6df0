"""`redteam show NAME`: one plugin in full. It is imported, unlike by `redteam list`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from redteam.errors import UnknownName
from redteam.plugins.contracts import AttackSpec, DefenseSpec, MergerSpec, ReportSpec, Spec, spec_of
from redteam.plugins.plans import listed_plans, plan_file
from redteam.plugins.reference import Reference, toml_text
from redteam.plugins.registry import REGISTRIES, REPORTS, Registry, module_from
from redteam.plugins.settings import Setting, settings_of


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A plugin, a plan, or path/to/file.py@name.")],
) -> None:
    """Show a plugin or plan: what it does, what it claims and needs, and its settings."""
    typer.echo("\n\n".join(described(name)))


def described(text: str) -> tuple[str, ...]:
    """One block of text for each plugin or plan of that name.

    Raises:
        UnknownName: If there is none.
    """
    # An extension may have dots in it, which no other plugin's name has.
    reference = Reference(text) if text in REPORTS else Reference.parse(text)
    bare = Reference(reference.name)
    if reference.file:
        specs = [spec for value in vars(module_from(Path(bare.file))).values() if (spec := spec_of(value))]
        kinds = [spec.kind for spec in specs if spec.name == bare.plugin]
        if not kinds:
            raise UnknownName.among(f"plugin in {bare.file}", bare.plugin, {spec.name for spec in specs})
        return tuple(_plugin(REGISTRIES[kind], bare) for kind in dict.fromkeys(kinds))
    blocks = [_plugin(registry, bare) for registry in REGISTRIES.values() if bare.name in registry]
    blocks += [_plan(one.name, one.package) for one in listed_plans() if one.name == bare.name]
    if not blocks:
        known = {name for registry in REGISTRIES.values() for name in registry} | {p.name for p in listed_plans()}
        raise UnknownName.among("plugin or plan", bare.name, known)
    return tuple(blocks)


def _plugin(registry: Registry[Any], reference: Reference) -> str:
    found = registry.find(reference)
    lines = [f"{registry.kind} {reference.name}", f"  package   {found.origin}"]
    lines += [f"  {label:<9} {value}" for label, value in _claims(found.spec)]
    documentation = inspect.getdoc(found.function) or inspect.getdoc(sys.modules[found.function.__module__]) or ""
    if documentation:
        lines += ["", *(f"  {line}".rstrip() for line in documentation.splitlines())]
    if not isinstance(found.spec, ReportSpec):
        settings = settings_of(found.function)
        lines += ["", "  settings" if settings else "  no settings"]
        lines += [f"    {_setting(setting)}" for setting in settings.values()]
    return "\n".join(lines)


def _claims(spec: Spec) -> Iterator[tuple[str, str]]:
    if isinstance(spec, AttackSpec):
        yield "role", spec.role + (", part of every evaluation" if spec.always else "")
        breaks = sorted(f"{getattr(group, 'name', group.__name__)} at {kind}" for kind, group in spec.breaks)
        yield "breaks", ", ".join(breaks) or "claims to break no kind of lock"
        yield "needs", ", ".join(str(need.name).lower() for need in spec.needs) or "nothing but the protected weights"
        if spec.targets:
            yield "targets", ", ".join(spec.targets)
    elif isinstance(spec, DefenseSpec):
        yield "exact", "yes, the function stays the same" if spec.exact else "no, the function changes"
        yield "keyed", "yes" if spec.keyed else "no"
        if spec.adapts:
            yield "adapts", "yes, to a smaller group where an architecture does not allow its own, and says so"
    elif isinstance(spec, MergerSpec) and spec.tunable:
        yield "tuned", f"{spec.tunable}, on the companions-only merge"
    if spec.paper:
        yield "paper", spec.paper


def _setting(setting: Setting) -> str:
    default = "required" if setting.required else f"default {_value(setting.default)}"
    where = f", within {setting.range}" if setting.range is not None else ""
    return f"{setting.name}: {setting.type_text}, {default}{where}"


def _value(value: object) -> str:
    return "none" if value is None else toml_text(value)


def _plan(name: str, package: str) -> str:
    file = plan_file(name)
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(
        [f"plan {name}", f"  package   {package}", f"  file      {file}", "", *(f"  {x}".rstrip() for x in lines)]
    )
