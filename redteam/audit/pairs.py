"""Whether two protected models share their gauges, which makes them as easy to merge as unprotected ones.

Two models with a gauge of their own each stand √2 of their norm apart. So at every site the one is audited with the
other in the base's place: if the identity explains their distance, the gauge is shared. Both are first moved by what
takes the first one's lock off, so that a lock with large and small rows does not blur the comparison; this only
chooses coordinates, and whether a gauge is shared does not depend on how good they are.
"""

from __future__ import annotations

from redteam.audit.compared import compared
from redteam.audit.explain import STRANGER, Explainer, square
from redteam.audit.findings import PairFinding, Standing
from redteam.audit.walk import Looked


def compare_gauges(mine: Looked, theirs: Looked, explainer: Explainer) -> PairFinding:
    """Whether two models, both looked at against one base, share the gauge at a site.

    Raises:
        BadInput: If a tensor holds NaN or infinity.
    """
    site, states = mine.site, (mine.finding.state, theirs.finding.state)

    def found(standing: Standing, **figures: float) -> PairFinding:
        return PairFinding(
            site=site.label, kind=site.kind, part=site.part, layer=site.layer, standing=standing, **figures
        )

    if "reshaped" in states:
        return found("reshaped")
    free = [state in ("equal", "unlocked") for state in states]
    if any(free):
        return found("neither" if all(free) else "one")
    their, my = compared(site, theirs.view, mine.view)
    if mine.gauge is not None:
        their, my = their.moved(mine.gauge), my.moved(mine.gauge)
    unit = (square(their) + square(my)) / 2
    explained = explainer.explain(site, their, my)
    shared = explained.group is None and explained.before <= STRANGER * unit
    distance, fitted = ((squared / unit) ** 0.5 if unit else 0.0 for squared in (explained.before, explained.after))
    return found("shared" if shared else "apart", distance=distance, fitted=fitted)
