"""Multiplies an adapter's factors out, which nothing done to the two of them alone survives."""

from typing import Literal

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("multiply-out", needs=Needs.ANCHOR, targets=("adapter-gauge",), keeps_function=True, factors=True)
def multiply_out(view: AttackerView, *, form: Literal["adapter", "model"] = "adapter") -> Checkpoint:
    """Δ = s B A, and where an adapter is wanted A = √S Vᵀ, B = U √S of B A = U S Vᵀ again, by two QR and an r × r SVD.

    Two adapters with the same product come out the same, whatever was done to their factors, but for singular values
    that are equal. That basis is the adapter's own, not the one in which it was trained: factors that began alike in
    two adapters, as those of one seed do, are no longer alike, so that whoever combines factors apart gets less of
    either than before the lock. Whoever merges products (`cat`, `svd`, whole models) gets all.

    Args:
        view: The adapter over its base.
        form: `"model"` for the base with Δ added, in which nothing is left to lock.
    """
    adapter = view.protected.refactored(lambda _, own: own.balanced())
    if form == "adapter":
        return adapter
    return Checkpoint.computed(adapter.outline(), view.protected.__getitem__, adapter.config)
