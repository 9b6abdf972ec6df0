"""What of a site is compared with an anchor's: stacks on which no gauge but the one looked for has a bearing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial

import torch
from torch import Tensor

from redteam.anatomy import Side, Site, Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import canonical, canonical_side
from redteam.symmetry.groups import largest_legal_group
from redteam.symmetry.head_matching import Heads, matched, paired_features
from redteam.symmetry.norm_scales import Scales
from redteam.symmetry.screening import SAMPLE, can_be_sampled, in_both, sampled
from redteam.symmetry.stream_tokens import Alike, least_deviations, unturned

_STAYS = 0.2  # by so much another dimension must be more alike, in cosines, to be taken for the one that was there
_ROUNDS = 4  # then a stream's fit moves by less than half precision rounds
_TOKENS = 4  # rows of an embedding to a dimension of the stream: enough to tell dimensions apart
_GLANCE = 32  # columns of all other sites' maps together to a dimension: enough to see whether a stream is turned


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

    def unturned(self, site: Site) -> bool:
        """Whether a stream's own tokens are enough to tell a rotation, and neither they nor other sites' show one.

        Other sites are looked at where they are fitted already: a first fit has left own tokens with nothing to show,
        though it knows nothing of directions that these do not reach, and little of those that they hardly reach.
        """
        if "orthogonal" not in site.legal or not _tells(site, self.protected, self.anchor):
            return False
        common = shared_sides(site, self.protected, self.anchor)
        if not unturned(partial(self._tokens, _own(common))):
            return False
        of_each = max(SAMPLE, _GLANCE * site.width // len(common))
        return not self.again or unturned(partial(self._tokens, common, at_most=of_each))

    def _streams(self, site: Site) -> tuple[Stacks, Stacks]:
        """Stacks of the width of the stream alone whose product is that of all that is compared.

        Where dimensions can only change places, their cosines are compared, and it takes evidence to move one: a small
        embedding says little, and a wrong order here spoils every fit that follows.
        """
        common = shared_sides(site, self.protected, self.anchor)
        sides, group = common if self.again else _own(common), largest_legal_group(site)
        turned = "orthogonal" in site.legal

        def stacks(alike: Alike) -> tuple[Stacks, Stacks]:
            cross = alike.cross if turned else _staying(alike.cosines())
            eye = torch.eye(site.width, dtype=cross.dtype, device=cross.device)
            return Stacks(eye[None], eye[None, :, :0]), Stacks(cross[None], eye[None, :, :0])

        def closest(alike: Alike) -> Tensor:
            moving, target = stacks(alike)
            return group.fit(moving, target).left(moving.left)[0]

        rounds, at_most = 1 if self.again else _ROUNDS, None if turned else _TOKENS * site.width
        pairs = partial(self._tokens, sides, at_most=at_most)
        return stacks(least_deviations(pairs, closest, rounds=rounds, fitted=self.again))

    def _tokens(self, sides: Iterable[Side], *, at_most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Side by side the protected model's stack and the anchor's, [width, tokens]; or some tokens of each."""
        for side in sides:
            if at_most is None or not can_be_sampled(side):
                here, there = (canonical_side(side, x, 1)[0] for x in (self.protected, self.anchor))
            else:
                here, there = (sampled(side, x, count=at_most) for x in (self.protected, self.anchor))
            yield here, there


def _staying(cosines: Tensor) -> Tensor:
    """Cosines in which a dimension's own counts for more."""
    return cosines + torch.diag(_STAYS * cosines.diagonal().sign())


def shared_sides(site: Site, checkpoint: Checkpoint, anchor: Checkpoint) -> tuple[Side, ...]:
    """The sides that two checkpoints both have, in one shape, carried ones left out; () if none is moved by G alone."""
    found = tuple(side for side in (*site.lefts, *site.rights) if in_both(side, checkpoint, anchor))
    return found if any(not side.shared and side in site.lefts for side in found) else ()


def is_unambiguous(site: Site, checkpoint: Checkpoint, anchor: Checkpoint) -> bool:
    """Whether what a stream has to itself tells its dimensions apart beyond doubt: more tokens than it has dimensions.

    Then, where these can only change places, nothing is gained by a second fit.
    """
    return site.kind == "residual" and "orthogonal" not in site.legal and _tells(site, checkpoint, anchor)


def _tells(site: Site, checkpoint: Checkpoint, anchor: Checkpoint) -> bool:
    """Whether a stream has several times as many tokens to itself as dimensions."""
    own = [side.linear.weight for side in _own(shared_sides(site, checkpoint, anchor))]
    return max((math.prod(checkpoint.shape(name)) for name in own), default=0) >= _TOKENS * site.width**2


def _own(sides: Iterable[Side]) -> tuple[Side, ...]:
    """Those that no other site moves."""
    return tuple(side for side in sides if not side.shared)


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
