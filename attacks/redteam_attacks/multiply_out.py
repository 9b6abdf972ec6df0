"""Multiplies an adapter's factors out, which nothing done to the two of them alone survives."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.factors import Factors
from redteam.errors import BadInput, Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("multiply-out", needs=Needs.ANCHOR, targets=("adapter-gauge",), keeps_function=True, factors=True)
def multiply_out(view: AttackerView, *, form: Literal["adapter", "model"] = "adapter", like: str = "") -> Checkpoint:
    """Δ = s B A, and where an adapter is wanted A = √S Vᵀ, B = U √S of B A = U S Vᵀ again, by two QR and an r × r SVD.

    Two adapters with the same product come out the same, whatever was done to their factors, but for singular values
    that are equal. That basis is the adapter's own, not the one in which it was trained: factors that began alike in
    two adapters, as those of one seed do, are no longer alike, so that whoever combines factors apart gets less of
    either than before the lock. Whoever merges products (`cat`, `svd`, whole models) gets all.

    With `like` the basis is another adapter's: A ← G A and B ← B G⁻¹, where G A is the nearest to that one's A that
    there is, by least squares. Of adapters that began alike it is about the basis in which both were trained, since
    training moves A by a part of its size. Any of them will do, and so does one that was never trained.

    Args:
        view: The adapter over its base.
        form: `"model"` for the base with Δ added, in which nothing is left to lock.
        like: The folder of an adapter of the same base and the same ranks. Modules that it lacks keep their own basis.

    Raises:
        BadInput: If `like` is no LoRA, has another rank somewhere, or an A that is not finite.
        NotACheckpoint: If `like` cannot be read, or is not for this base.
        Inapplicable: If the A of `like` lacks rank where the adapter's does not.
    """
    other = Checkpoint.open(Path(like).expanduser(), base=view.anchor) if like else None
    if other is not None and not other.has_factors:
        raise BadInput(f"{like} has no factors to be like; expected the folder of a LoRA, as PEFT saves it.")

    def split(name: str, own: Factors) -> Factors:
        found = None if other is None else other.factors(name)
        return own.balanced() if found is None else _towards(name, own.balanced(), found)

    adapter = view.protected.refactored(split)
    if form == "adapter":
        return adapter
    return Checkpoint.computed(adapter.outline(), view.protected.__getitem__, adapter.config)


def _towards(name: str, own: Factors, other: Factors) -> Factors:
    """The same product, in the basis in which A is nearest to another one.

    Args:
        name: Of the tensor, for sentences.
        own: Balanced, in float64.
        other: Of the same rank.
    """
    if other.rank != own.rank:
        raise BadInput(
            f"At {name!r} the adapter to be like has rank {other.rank} and this one {own.rank}; expected one of the "
            "same ranks, as factors that are combined apart have."
        )
    if not torch.isfinite(other.down).all():
        raise BadInput(f"At {name!r} the A of the adapter to be like is not finite; expected weights that are.")
    gauge = other.down.to(own.down) @ torch.linalg.pinv(own.down)
    if torch.linalg.matrix_rank(gauge) < torch.linalg.matrix_rank(own.down):
        raise Inapplicable(
            f"At {name!r} no basis brings this adapter's A near to that of the adapter to be like, which lacks rank "
            "there; expected one that began with the same A."
        )
    return Factors(own.up @ torch.linalg.pinv(gauge), gauge @ own.down, own.scale)  # pinv: B A may lack rank
