"""Eight published fine-tunes of CLIP ViT-B/32 (or L/14), which classify pictures by the names of the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from redteam.plugins.contracts import scenario
from redteam.plugins.remarks import Remark
from redteam.plugins.settings import Range

if TYPE_CHECKING:
    from redteam.tasks import Scenario
    from redteam_scenarios.folder.schema import Plan

Size = Literal["base", "large"]
_FILES = {"base": "clip-8", "large": "clip-8-large"}


def _plan(size: Size) -> Plan:
    from redteam_scenarios.published.files import plan_of

    return plan_of(_FILES[size])


def state(*, size: Size = "base", seed: int = 0) -> str:
    """What changes whenever the file does."""
    from redteam_scenarios.folder.files import state_of

    return state_of(_plan(size))


def check(*, size: Size = "base", seed: int = 0) -> Iterator[Remark]:
    """What can be said of models and data before they are read as a whole."""
    from redteam_scenarios.folder.looking import remarks

    return remarks(_plan(size), seed)


def about(*, size: Size = "base", seed: int = 0) -> Iterator[tuple[str, str]]:
    """What `redteam show` says."""
    from redteam_scenarios.published.files import names_in

    return names_in(_plan(size))


@scenario("clip-8", state=state, check=check, about=about)
def clip_8(*, size: Size = "base", seed: Annotated[int, Range(0, 2**31 - 1)] = 0) -> Scenario:
    """Cars, DTD, EuroSAT (the victim), GTSRB, MNIST, RESISC45, SUN397 and SVHN, as in papers on merging.

    Base, experts (vision towers, by the authors of FusionBench) and data are fetched from the hub: some 4 GB of models
    (large: 12 GB) and 30 GB of pictures.

    Args:
        size: ViT-B/32, or L/14.
        seed: 0, since each expert was published once.
    """
    from redteam_scenarios.folder.assembling import assemble

    return assemble(_plan(size), seed)
