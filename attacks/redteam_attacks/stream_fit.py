"""Stream fit: a residual stream in any bases cut to the base's width, or brought to the base's by a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.anatomy import Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import GeneralLinear
from redteam.symmetry.alignment import shared_sides
from redteam.symmetry.widening import Bases, Widening
from redteam.views import AttackerView

_ROUNDS = 3


@attack("stream-fit", needs=Needs.ANCHOR, targets=("aloepri",), changes_architecture=True)
def stream_fit(view: AttackerView) -> Checkpoint:
    """P, Q of least squares E₀ P = E, Q H₀ = H; at the base's width min over G of Σ ‖G W − W₀‖² + Σ ‖G⁻ᵀ W − W₀‖².

    A stream that is wider than the base's is cut by embeddings E and head H. One that is as wide, as after such a cut,
    is fitted on all that writes (G) and all that reads (G⁻ᵀ) in the layers; heads and neurons should have been fitted
    before, and noise on embeddings has no part in it. So it comes twice:
    `stream-fit+gauge-fit+plane-assignment+stream-fit+denoise+gauge-fit`.

    A norm sees the stream, so that the function does not stay under any G; it stays where G undoes an error in the
    basis. Where no norm of a stream allows a rotation, the model is returned as it is.

    Args:
        view: Grants the base.

    Raises:
        BadInput: If the stream is narrower than the base's, the head is tied, or there are other tokens.
        Inapplicable: If the base shares no map of a layer.
    """
    streams = [site for site in anatomy_of(view.protected).sites(("residual",)) if site.spanning]
    if not any("signed-permutation" in site.legal for site in streams):
        return view.protected
    stream, before = Widening(view.protected), Widening(view.anchor)
    wide, width = stream.site.width, before.site.width
    if wide < width:
        raise BadInput(
            f"The stream is {wide} wide and the base's {width}; expected no less, so check that they belong together."
        )
    bases = _cut(stream, before) if wide > width else _turned(stream, before)
    return stream.unfolded(bases, view.anchor)


def _cut(stream: Widening, before: Widening) -> Bases:
    """P from the embeddings, Q from the head, and of the two the one that fits worse corrected so that P Q = I."""
    ends, ends0 = stream.ends(), before.ends()
    found, errors = [], []
    for end, end0, what in zip(ends, ends0, ("embeddings", "head"), strict=True):
        if end.shape[1] != end0.shape[1] or not end.numel():
            raise BadInput(
                f"There are {end.shape[1]} rows of the {what}, and {end0.shape[1]} of the base's; expected the same "
                "number, of one vocabulary, in a tensor of its own, so leave this attack out."
            )
        gram = end0 @ end0.T
        basis = torch.linalg.pinv(gram, hermitian=True) @ end0 @ end.T
        found.append(basis)
        errors.append(float((end - basis.T @ end0).norm() / end.norm()))
    write, read = found
    read = read / ((write * read).sum() / len(write))  # the gain, which the head reads: P Q is I but for it and noise
    back = torch.linalg.pinv(write @ read.T)
    if errors[0] <= errors[1]:
        read = back.T @ read
    else:
        write = back @ write
    return _seen(write, read.T, write @ ends[1], ends0[1])


def _turned(stream: Widening, before: Widening) -> Bases:
    """The tied fit of all that layers read and write."""
    if stream.tied:
        raise BadInput(
            "The head is tied to the embeddings, which no matrix but a rotation leaves in one basis; expected an "
            "untied head, so leave this attack out."
        )
    common = set(shared_sides(stream.site, stream.checkpoint, before.checkpoint))
    pairs = []
    for sides in (stream.site.lefts, stream.site.rights):
        gram = torch.zeros(2 * before.site.width, 2 * before.site.width, dtype=torch.float64)
        for side in sides:
            if side in common and side.shared and stream.norm_of.get(side.linear.weight) != stream.last:
                both = torch.cat([stream.stack(side), before.stack(side)])
                gram += (both @ both.T).to(gram)
        pairs.append(_root(gram))
    (left, left0), (right, right0) = pairs
    if not (left0.any() and right0.any()):
        raise Inapplicable("The base shares no map of a layer with the protected model; expected one of its shapes.")
    seen = 1.0
    for _ in range(_ROUNDS):  # what norms see, and the matrix, each given the other
        gauge = GeneralLinear().fit(Stacks(left[None], right[None] / seen), Stacks(left0[None], right0[None]))
        bases = _seen(torch.linalg.inv(gauge.matrix[0]).T, gauge.matrix[0].T, gauge.right(right[None])[0], right0)
        seen = bases.factor
    return bases


def _seen(write: Tensor, read: Tensor, found: Tensor, wanted: Tensor) -> Bases:
    """P and Q, and what norms have to be told: by how much what is read comes out too large."""
    along = float((found * wanted).sum() / wanted.square().sum())
    bases = Bases.pair(write, read)
    return Bases(bases.write, bases.read, along if along > 0 else float(found.norm() / wanted.norm()))


def _root(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Two stacks of few columns with the products of those that a Gram matrix is of."""
    values, vectors = torch.linalg.eigh(gram)
    root = vectors * values.clamp(min=0.0).sqrt()
    return root[: len(root) // 2], root[len(root) // 2 :]
