"""What is said of a scenario's weights: whose they are, and whether the experts descend from the base."""

from __future__ import annotations

from collections.abc import Iterator

from redteam.checkpoint import Checkpoint
from redteam.doctor.descent import explained
from redteam.doctor.weighed import FAR, copies, weigh
from redteam.plugins.remarks import Remark
from redteam.tasks import Scenario

_DIGITS = 12


def weights(scenario: Scenario) -> Iterator[Remark]:
    """Short digests of all models, and which of them are one and the same."""
    base, experts = scenario.base, scenario.experts
    digests = {"base": base.digest(), **{name: expert.digest() for name, expert in experts.items()}}
    yield Remark("ok", "weights", ", ".join(f"{name} {digest[:_DIGITS]}" for name, digest in digests.items()))
    weighed = weigh(experts, base)
    for name in experts:
        if weighed[name].is_base:
            yield Remark(
                "WRONG",
                "weights",
                f"the expert of {name!r} is the base; it has learned nothing that a merge could take",
            )
    for one, other in copies(experts, weighed):
        whose = "the victim" if scenario.victim in (one, other) else f"the expert of {one!r}"
        companion = other if one == scenario.victim or whose != "the victim" else one
        yield Remark(
            "WRONG",
            "weights",
            f"the expert of {companion!r} has the same weights as {whose}; expected another model",
        )


def descent(scenario: Scenario) -> Iterator[Remark]:
    """How far each expert is from the base, and, where that is further than training goes, what moved it."""
    weighed = weigh(scenario.experts, scenario.base)
    for name, expert in scenario.experts.items():
        if weighed[name].refused:
            yield Remark("WRONG", "descent", next(iter(weighed[name].refused.values())).rstrip("."))
            continue
        moved, most = weighed[name].over_matrices
        far = f"{name!r} is {moved:.2g} times the base's norm away from it, its furthest matrix {most:.2g} times"
        if most <= FAR:
            yield Remark("ok", "descent", far)
        else:
            yield _explained(name, far, expert, scenario.base)


def _explained(name: str, far: str, expert: Checkpoint, base: Checkpoint) -> Remark:
    found = explained(expert, base)
    told = found.told.rstrip(".")
    if found.kind == "unknown":
        return Remark("WRONG", "descent", f"{far}, further than fine-tunes go; why cannot be told ({told})")
    if found.kind == "locked":
        return Remark("WRONG", "descent", f"{far}: it is locked already, so name it as it was before. {told}")
    if found.kind == "stranger":
        return Remark(
            "WRONG",
            "descent",
            f"{far}, as models of another training are, and no change of basis explains it; expected one that was "
            "fine-tuned from this base, so name the base that it was made from",
        )
    return Remark("note", "descent", f"{far}, further than fine-tunes go, and no change of basis explains it")
