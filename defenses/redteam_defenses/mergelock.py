"""MergeLock: every head in a secret basis that is no longer orthonormal."""

from typing import Annotated, Literal

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import GeneralLinear
from redteam.views import DefenderView


@defense(
    "mergelock",
    exact=True,
    keyed=True,
    adapts=True,
    weakened={"scale": (0.5, 2.0)},
    claim="Merged performance falls by over 95 % in most cases (paper: CLIP ViT-B/32 and L/14, Flan-T5); ViT-B/32 on "
    "eight tasks 67.23 → 5.10 when locked (second-hand).",
    paper="arXiv:2509.01548",
)
def mergelock(
    view: DefenderView,
    *,
    scale: Annotated[tuple[float, float], Range(1e-6, 1e6, log=True, rising=True)] = (0.01, 100.0),
    factor: Literal["rotation", "gaussian"] = "rotation",
) -> Checkpoint:
    """Wq ← Aᵀ Wq, Wk ← A⁻¹ Wk, Wv ← Bᵀ Wv, Wo ← Wo B⁻ᵀ with A, B = rotation × permutation × diagonal, per head.

    The paper leaves two things open. The range of the diagonal decides how strong the lock is; the default is wide,
    because a wide one hurts the merge most, and was fixed before any attack was run. The first factor is a rotation,
    or a Gaussian matrix.

    Where rotary embeddings turn queries and keys, such an A would change the function. There it adapts: one complex
    number per rotary plane, its modulus from the same range, and A on the dimensions that are not turned; signs where
    a norm of queries and keys leaves no more. The paper speaks of networks without rotary embeddings.

    Args:
        view: The victim and its key.
        scale: Between which the diagonal's magnitudes are drawn, log-uniformly, with random signs.
        factor: What the permutation and the diagonal are multiplied with.
    """
    return view.lock(("qk", "vo"), GeneralLinear(scale=scale, factor=factor), adapts=True)
