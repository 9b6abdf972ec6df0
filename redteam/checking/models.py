"""What is said of a scenario's weights: whose they are, and whether the experts descend from the base."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch

from redteam.audit.findings import SiteFinding
from redteam.audit.walk import Walk
from redteam.audit.words import summary
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput
from redteam.plugins.remarks import Remark
from redteam.tasks import Scenario

FAR = 0.3
"""Distance of a weight matrix to the base's, in units of its norm, that fine-tunes stay below: full fine-tunes of
language models and ViTs move theirs by 0.001 to 0.1, and the experts of the scenario digits by up to 0.21."""
_DIGITS = 12


def weights(scenario: Scenario) -> Iterator[Remark]:
    """Short digests of all models, and which of them are one and the same."""
    base, experts = scenario.base, scenario.experts
    digests = {"base": base.digest(), **{name: expert.digest() for name, expert in experts.items()}}
    yield Remark("ok", "weights", ", ".join(f"{name} {digest[:_DIGITS]}" for name, digest in digests.items()))
    for name, expert in experts.items():
        if all(torch.equal(expert[tensor], base[tensor]) for tensor in shared_tensors(expert, base)):
            yield Remark(
                "WRONG",
                "weights",
                f"the expert of {name!r} is the base; it has learned nothing that a merge could take",
            )
    for one, other in combinations(experts, 2):
        if _alike(experts[one], experts[other], base):
            whose = "the victim" if scenario.victim in (one, other) else f"the expert of {one!r}"
            companion = other if one == scenario.victim or whose != "the victim" else one
            yield Remark(
                "WRONG",
                "weights",
                f"the expert of {companion!r} has the same weights as {whose}; expected another model",
            )


def descent(scenario: Scenario) -> Iterator[Remark]:
    """How far each expert is from the base, and, where that is further than training goes, what moved it."""
    for name, expert in scenario.experts.items():
        moved, most = _moved(expert, scenario.base)
        far = f"{name!r} is {moved:.2g} times the base's norm away from it, its furthest matrix {most:.2g} times"
        if most <= FAR:
            yield Remark("ok", "descent", far)
        else:
            yield _explained(name, far, expert, scenario.base)


def _alike(one: Checkpoint, other: Checkpoint, base: Checkpoint) -> bool:
    shared = shared_tensors(one, base)
    return set(shared) == set(shared_tensors(other, base)) and all(torch.equal(one[t], other[t]) for t in shared)


def _moved(expert: Checkpoint, base: Checkpoint) -> tuple[float, float]:
    """Distance over all weight matrices, in units of the base's norm, and the largest of a single one."""
    apart = size = most = 0.0
    for name in shared_tensors(expert, base):
        if len(base.shape(name)) < 2:
            continue
        anchor = base[name].to(torch.float64)
        far, whole = float((expert[name].to(torch.float64) - anchor).square().sum()), float(anchor.square().sum())
        apart, size, most = apart + far, size + whole, max(most, far / whole if whole else 0.0)
    return (apart / size) ** 0.5 if size else 0.0, most**0.5


def _explained(name: str, far: str, expert: Checkpoint, base: Checkpoint) -> Remark:
    try:
        sites = [looked.finding for looked in Walk(expert, base)]
    except BadInput as error:
        return Remark(
            "WRONG", "descent", f"{far}, further than fine-tunes go; why cannot be told ({error})".rstrip(".")
        )
    if groups := {site.group for site in sites if site.state == "locked"}:
        locks = " ".join(summary(sites, (), ())[: len(groups)]).rstrip(".")
        return Remark("WRONG", "descent", f"{far}: it is locked already, so name it as it was before. {locks}")
    if _strange(sites):
        return Remark(
            "WRONG",
            "descent",
            f"{far}, as models of another training are, and no change of basis explains it; expected one that was "
            "fine-tuned from this base, so name the base that it was made from",
        )
    return Remark("note", "descent", f"{far}, further than fine-tunes go, and no change of basis explains it")


def _strange(sites: list[SiteFinding]) -> bool:
    """Whether most of the sites are as far from the base as a stranger's."""
    changed = [site for site in sites if site.state != "equal"]
    return bool(changed) and 2 * sum(site.state == "unexplained" for site in changed) >= len(changed)
