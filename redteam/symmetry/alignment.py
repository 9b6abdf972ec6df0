"""What of a site is compared with an anchor's: stacks on which no gauge but the one looked for has a bearing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from redteam.anatomy import Side, Site, Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import canonical, canonical_side
from redteam.symmetry.head_matching import Heads, matched, paired_features
from redteam.symmetry.norm_scales import Scales
from redteam.symmetry.screening import sampled

_STAYS = 0.2  # by so much another dimension must be more alike, in cosines, to be taken for the one that was there
_TOKENS = 4  # rows of an embedding to a dimension of the stream: enough to tell dimensions apart


class Comparison:
    """The stacks that a group fits at a site, of a protected model and of an anchor.

    They are the canonical ones, except where something larger changes places. Rows then stand for what no gauge inside
    of it changes: heads by their products (`redteam.symmetry.head_matching`), experts by the router's rows. Sides that
    other sites move too (all but the embeddings, at a stream) are left out, unless those sites are fitted already.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        again: Whether the other sites are fitted already.
    """

    def __init__(self, protected: Checkpoint, anchor: Checkpoint, *, again: bool = False) -> None:
        self.protected, self.anchor, self.again = protected, anchor, again

    def __call__(self, site: Site) -> tuple[Stacks, Stacks]:
        """Raises BadInput if a tensor holds NaN or infinity."""
        if site.kind in ("heads", "queries"):
            attention, both = self._attention[site.layer, site.part], (self.protected, self.anchor)
            shown = matched(site, *(Heads.read(attention, x, sample=True) for x in both))
            if shown is not None:
                eye = torch.eye(site.width, dtype=torch.float64).expand(site.heads, -1, -1)
                return Stacks(eye, eye[:, :, :0]), Stacks(shown.left(eye), eye[:, :, :0])
            return paired_features(site, *(Heads.read(attention, x) for x in both))
        if site.kind == "experts":
            left, left0 = (canonical_side(site.left, x, site.heads) for x in (self.protected, self.anchor))
            return Stacks(left, left[:, :, :0]), Stacks(left0, left0[:, :, :0])
        if site.kind == "residual":
            return self._streams(site)
        if site.kind == "norm-scale":
            return self.scales.reduced(site)
        common = {*shared_sides(site, self.protected, self.anchor), *site.carried}
        sides = [side for side in site.sides if side in common and (self.again or not side.shared)]
        return canonical(site, self.protected, sides), canonical(site, self.anchor, sides)

    @cached_property
    def scales(self) -> Scales:
        """What tells how much of what norms read was multiplied."""
        return Scales(self.protected, self.anchor)

    @cached_property
    def _attention(self) -> Mapping[tuple[int, str], Site]:
        return {(site.layer, site.part): site for site in anatomy_of(self.protected).sites(("heads",))}

    def _streams(self, site: Site) -> tuple[Stacks, Stacks]:
        """Stacks of the width of the stream alone whose product is that of all that is compared.

        Where dimensions can only change places, their cosines are compared, and it takes evidence to move one: a small
        embedding says little, and a wrong order here spoils every fit that follows.
        """
        cross = torch.zeros((), dtype=torch.float64)
        sizes: list[Any] = [0.0, 0.0]
        for side in shared_sides(site, self.protected, self.anchor):
            if side.shared and not self.again:
                continue
            if "orthogonal" in site.legal or side.unit != 1:
                here, there = (canonical_side(side, x, 1)[0] for x in (self.protected, self.anchor))
            else:
                here, there = (sampled(side, x, count=_TOKENS * site.width) for x in (self.protected, self.anchor))
            cross = cross.to(there.device) + there @ here.mT
            sizes = [a + b.square().sum(1) for a, b in zip(sizes, (there, here), strict=True)]
        eye = torch.eye(site.width, dtype=cross.dtype, device=cross.device)
        if "orthogonal" not in site.legal:
            cross = cross / sizes[0].sqrt()[:, None].clamp(min=1e-300) / sizes[1].sqrt().clamp(min=1e-300)
            cross = cross + _STAYS * eye * cross.diagonal().sign()
        return Stacks(eye[None], eye[None, :, :0]), Stacks(cross[None], eye[None, :, :0])


def shared_sides(site: Site, checkpoint: Checkpoint, anchor: Checkpoint) -> tuple[Side, ...]:
    """The sides that two checkpoints both have, in one shape, carried ones left out; () if none is moved by G alone."""
    found = tuple(
        side
        for side in (*site.lefts, *site.rights)
        if all(name in anchor and anchor.shape(name) == checkpoint.shape(name) for name in side.linear.names)
    )
    return found if any(not side.shared and side in site.lefts for side in found) else ()


def is_unambiguous(site: Site, checkpoint: Checkpoint, anchor: Checkpoint) -> bool:
    """Whether what a stream has to itself tells its dimensions apart beyond doubt: more tokens than it has dimensions.

    Then, where these can only change places, nothing is gained by a second fit.
    """
    if site.kind != "residual" or "orthogonal" in site.legal:
        return False
    own = [side.linear.weight for side in shared_sides(site, checkpoint, anchor) if not side.shared]
    return max(math.prod(checkpoint.shape(name)) for name in own) >= _TOKENS * site.width**2


def distance(site: Site, checkpoint: Checkpoint, anchor: Checkpoint) -> float:
    """`‖left − left0‖² + ‖right − right0‖²` of a site's canonical stacks, what is carried included.

    Raises:
        BadInput: If a tensor holds NaN or infinity.
    """
    if site.members:
        return sum(distance(one, checkpoint, anchor) for one in site.members)
    common = shared_sides(site, checkpoint, anchor)
    if not site.spanning:
        sides = (*common, *site.carried)
        return canonical(site, checkpoint, sides).distance(canonical(site, anchor, sides))
    pairs = ((canonical_side(side, x, 1) for x in (checkpoint, anchor)) for side in common)  # one at a time
    return sum(float((here - there).square().sum()) for here, there in pairs)
