"""The permutation that brings neurons as far from an anchor as a permutation can: a lock without a secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redteam.anatomy import Site
from redteam.checkpoint import Checkpoint
from redteam.symmetry.fitting import moved, require_same, sites_by_kind
from redteam.symmetry.gauges import MonomialGauge
from redteam.symmetry.permutations import Permutation
from redteam.symmetry.solvers import assign, carried_crossed, crossed


@dataclass(frozen=True)
class FarPermutation:
    """argmin over permutations of ⟨left0, P left⟩ + ⟨right0, P right⟩, a gate among what is compared.

    It depends on the weights that it is put on, so that what takes it off is not its inverse but the nearest order to
    the anchor's: the victim's own, wherever each neuron is more like itself before fine-tuning than like the others.
    Nobody needs a key for that. An order that an earlier lock chose is lost in it.

    Attributes:
        anchor: The public model.
        kinds: Kinds of sites.
    """

    anchor: Checkpoint
    kinds: tuple[str, ...] = ("mlp",)

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every site in the farthest order; lazy.

        Raises:
            Inapplicable: If the anchor lacks a tensor of a site, or has it in another shape.
        """

        def far(site: Site) -> MonomialGauge:
            here, there = site.stacks(checkpoint), site.stacks(self.anchor)
            return MonomialGauge(assign(-(crossed(here, there) + carried_crossed(here, there))))

        return self._moved(checkpoint, far)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every site in the nearest order; lazy."""
        return self._moved(
            checkpoint, lambda site: Permutation().fit(site.stacks(checkpoint), site.stacks(self.anchor))
        )

    def _moved(self, checkpoint: Checkpoint, gauge: Callable[[Site], MonomialGauge]) -> Checkpoint:
        for sites in sites_by_kind(checkpoint, self.kinds, Permutation()):
            require_same(sites, checkpoint, self.anchor)
            checkpoint = moved(checkpoint, sites, gauge)
        return checkpoint
