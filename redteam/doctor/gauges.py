"""Models that are further from the base than training goes: in another basis, or of another base."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import combinations
from statistics import median

from redteam.anatomy import Site
from redteam.audit.compared import tensors_of
from redteam.audit.findings import SiteFinding
from redteam.audit.renumbered import renumbered_tokens, taking_off
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.parts import part_names, part_of
from redteam.checkpoint.vocabulary import in_common
from redteam.doctor.descent import explained, some_layers
from redteam.doctor.findings import Finding
from redteam.doctor.weighed import FAR, Weighed, weigh
from redteam.errors import BadInput, RedteamError
from redteam.plugins.contracts import AttackSpec, Needs
from redteam.plugins.registry import ATTACKS, MERGERS
from redteam.symmetry import GROUPS

LAYERS = 3
"""Of each kind of site, layers that are fitted, among those that are far away; `redteam audit` looks at every one."""

COLUMNS = 128
"""Of large MLPs and the like, columns that are fitted: enough to tell thousands of neurons from one another."""


def far(name: str, model: Checkpoint, base: Checkpoint, one: Weighed, paths: tuple[str, str]) -> Iterator[Finding]:
    """What explains a model's distance to its base, where that is more than training's.

    Args:
        name: What it is called.
        model: The model.
        base: The public base, which may be a network that the model is a part of.
        one: Its task vector, under the base's names.
        paths: Where model and base lie, as they are written on a shell.
    """
    whole, most = one.over_matrices
    if most <= FAR:
        return
    moved = [n for n in one.matrices if one.moved(n) > FAR]
    told = f"The expert {name} is {whole:.2g} times the base's norm away from it, its furthest matrix {most:.2g} times"
    audit = f"redteam audit {paths[0]} --base {paths[1]}"
    inside = part_names(model, base)
    names = {n for n in model if inside.get(n, n) in moved}
    beside = part_of(base, model)
    if (tokens := renumbered_tokens(model, beside)) is not None:
        attacks, out = taking_off(), shlex.quote(f"{name}-renumbered")
        yield Finding(
            severity="damages",
            kind="vocabulary",
            models=(name,),
            where=tokens.names,
            told=f"{told}. {tokens}",
            remedy=" or ".join(f"redteam attack {attack}" for attack in attacks).join(
                ("Take that off with ", f" {paths[0]} --base {paths[1]} --out {out}, and merge that.")
            )
            if attacks
            else "Bring its embedding and head into the base's order of tokens first.",
        )
        names -= set(tokens.names)
        if not names:
            return
    try:
        here, there = in_common(model, beside)
        layers, count = some_layers(here, there, names, LAYERS)
    except BadInput as error:
        yield Finding(
            severity="note",
            kind="anatomy",
            models=(name,),
            where=tuple(moved),
            told=f"{told}, further than fine-tunes go; why cannot be told ({str(error).rstrip('.')}).",
            remedy="Let redteam describe find out where this network has its heads and neurons: --architecture FILE.",
        )
        return

    def among(site: Site) -> bool:
        return (site.spanning or site.layer in layers) and not names.isdisjoint(tensors_of(site, here, there))

    found = explained(here, there, columns=COLUMNS, among=among)
    looked = "" if len(layers) == count else f" Fitted were {len(layers)} of {count} layers that are as far away."
    if found.kind == "locked":
        yield from _locked(name, f"{told}.", looked, found.sites, paths)
    elif found.kind == "stranger" and 2 * len(moved) < len(one.matrices):
        yield Finding(
            severity="damages",
            kind="far",
            models=(name,),
            where=tuple(moved),
            told=f"{told}. {len(moved)} of {len(one.matrices)} matrices are as far away as another network's, whatever "
            f"the basis: they were drawn or trained anew, or come from another model.{looked}",
            remedy=f"See which, with {audit}, and leave it out, or put the base's in their place.",
        )
    elif found.kind == "stranger":
        yield Finding(
            severity="damages",
            kind="other-base",
            models=(name,),
            where=tuple(site.site for site in found.sites if site.state == "unexplained"),
            told=f"{told}, as models of another training are, and no change of basis explains it.{looked}",
            remedy="Merge it over the base that it was fine-tuned from, with other models of that base.",
        )
    else:
        why = f" ({found.told.rstrip('.')})" if found.told else ""
        yield Finding(
            severity="note",
            kind="far",
            models=(name,),
            where=tuple(moved),
            told=f"{told}, further than fine-tunes go, and no change of basis explains it{why}.{looked}",
            remedy=f"See where, with {audit}; much training merges badly, so give it less weight or leave it out.",
        )


def shared(models: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    """Models in another basis than the base, but in the same one: with one another they merge as if in none.

    Args:
        models: Those on which a gauge was found, their tensors named as the base's.
    """
    for one, other in combinations(models, 2):
        apart = weigh({other: models[other]}, models[one])[other]
        if 0 < apart.over_matrices[1] <= FAR:  # what is equal is told as a copy
            without = " or ".join(MERGERS.names_where(lambda spec: not spec.needs_base))
            yield Finding(
                severity="note",
                kind="gauge",
                models=(one, other),
                told=f"The experts {one} and {other} are in the same basis, though not in the base's: their matrices "
                f"are at most {apart.over_matrices[1]:.2g} times their norm apart, as those of fine-tunes are.",
                remedy=f"Merge the two alone by what needs no base ({without}), or take the gauges off both."
                if without
                else "Take the gauges off both.",
            )


def _locked(
    name: str, told: str, looked: str, sites: tuple[SiteFinding, ...], paths: tuple[str, str]
) -> Iterator[Finding]:
    groups: dict[str, list[SiteFinding]] = {}
    for site in sites:
        if site.state == "locked":
            groups.setdefault(str(site.group), []).append(site)
    for group, held in groups.items():
        kinds = tuple(dict.fromkeys(site.kind for site in held))
        before, after = (median(getattr(site, at) for site in held) for at in ("before", "after"))
        attack = _taking_off(group, kinds)
        out = shlex.quote(f"{name}-fitted")
        off = f"Take it off with redteam attack {attack} {paths[0]} --base {paths[1]} --out {out}, and merge that."
        yield Finding(
            severity="damages",
            kind="gauge",
            models=(name,),
            where=tuple(site.site for site in held),
            told=f"{told} It is in another basis than the base: a gauge of the {group} group sits on "
            f"{_and(kinds)}; with it they are {before:.2g} times the base's norm away, without it {after:.2g} "
            f"times.{looked}",
            remedy=off if attack else f"See what it is with redteam audit {paths[0]} --base {paths[1]}.",
        )


def _taking_off(group: str, kinds: tuple[str, ...]) -> str:
    """The attack that claims to undo such gauges with the base alone; of several the one that claims most."""
    pairs = {(kind, GROUPS[group]) for kind in kinds}

    def fits(spec: AttackSpec) -> bool:
        return spec.role == "recovery" and spec.needs == Needs.ANCHOR and spec.keeps_function and pairs <= spec.breaks

    def claims(attack: str) -> int:
        try:
            return len(ATTACKS.load(attack).spec.breaks)
        except RedteamError:
            return 0

    return max(ATTACKS.names_where(fits), key=claims, default="")


def _and(words: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
