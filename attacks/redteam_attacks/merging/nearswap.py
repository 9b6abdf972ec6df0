"""NearSwap: one expert's entries where they are close to the base's, and less of them the farther they are."""

from typing import Annotated

from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import onto_base, require_experts


@merger(
    "nearswap", holds={"order", "permutation", "still"}, paper="alchemonaut/QuartetAnemoi-70B; mergekit's `nearswap`"
)
def nearswap(view: MergerView, *, t: Annotated[float, Range(1e-8, 10.0, log=True)] = 1e-4) -> Checkpoint:
    """θ₀ + min(t / |τ|, 1) τ: no entry moves farther than t.

    mergekit reads t as the same and has no default; the model that brought it had 1e-4.

    Args:
        view: One expert and the base.
        t: How far an entry may move.

    Raises:
        BadInput: If there are more experts than one.
    """
    require_experts(view, "nearswap", 1)

    def swapped(start: Tensor, moved: Tensor) -> Tensor:
        return moved.sub_(start).clamp_(-t, t).add_(start)

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        (expert,) = experts.values()
        return entrywise(swapped, view.base[name], expert[name], dtype=view.base.dtype(name))

    return onto_base(view, merge)
