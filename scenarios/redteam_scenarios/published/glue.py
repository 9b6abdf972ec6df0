"""Four published fine-tunes of BERT on tasks of GLUE: entailment, questions and answers, sentiment, paraphrases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from redteam.plugins.contracts import scenario
from redteam.plugins.remarks import Remark
from redteam.plugins.settings import Range

if TYPE_CHECKING:
    from redteam.tasks import Scenario

_FILE = "glue"


def state(*, seed: int = 0) -> str:
    """What changes whenever the file does."""
    from redteam_scenarios.folder.files import state_of
    from redteam_scenarios.published.files import plan_of

    return state_of(plan_of(_FILE))


def check(*, seed: int = 0) -> Iterator[Remark]:
    """What can be said of models and data before they are read as a whole."""
    from redteam_scenarios.folder.looking import remarks
    from redteam_scenarios.published.files import plan_of

    return remarks(plan_of(_FILE), seed)


def about(*, seed: int = 0) -> Iterator[tuple[str, str]]:
    """What `redteam show` says."""
    from redteam_scenarios.published.files import names_in, plan_of

    return names_in(plan_of(_FILE))


@scenario("glue", state=state, check=check, about=about)
def glue(*, seed: Annotated[int, Range(0, 2**31 - 1)] = 0) -> Scenario:
    """BERT base (uncased) on MNLI (the victim), QNLI, SST-2 and MRPC, each expert under its own head.

    Base, experts and data are fetched from the hub: some 2 GB.

    Args:
        seed: 0, since each expert was published once.
    """
    from redteam_scenarios.folder.assembling import assemble
    from redteam_scenarios.published.files import plan_of

    return assemble(plan_of(_FILE), seed)
