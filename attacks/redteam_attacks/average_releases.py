"""Averaging releases: several of one victim, protected apart, fitted to the base and averaged there."""

import torch

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation
from redteam.views import AttackerView
from redteam_attacks.tied import fit_everything


@attack(
    "average-releases",
    breaks={("qk", GeneralLinear), ("vo", GeneralLinear), ("qk", Orthogonal), ("vo", Orthogonal), ("mlp", Permutation)},
    needs=Needs.ANCHOR | Needs.RELEASES,
    targets=("gaussian-noise",),
)
def average_releases(
    view: AttackerView, *, sites: Sites = ("heads", "queries", "qk", "vo", "mlp", "norm")
) -> Checkpoint:
    """θ = mean of fit(release) over the releases: what differs between keys and is no symmetry shrinks by √(releases).

    Locks that are symmetries come off by the fit alone; noise is what averaging is for.

    Args:
        view: Grants the base and further releases.
        sites: Kinds of sites to fit.
    """
    fitted = [fit_everything(release, view.anchor, sites) for release in view.releases]
    mean = {
        name: torch.stack([release[name].to(torch.float64) for release in fitted]).mean(0).to(tensor.dtype)
        for name, tensor in view.protected.items()
        if tensor.is_floating_point()
    }
    return view.protected.replace(mean)
