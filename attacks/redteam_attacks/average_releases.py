"""Average of releases: each release of the victim brought to the base's basis by the tied fit, then their mean."""

import torch

from redteam.anatomy import ORDER, Sites
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry.fit_all import fit_all
from redteam.views import AttackerView


@attack(
    "average-releases",
    needs=Needs.ANCHOR | Needs.RELEASES,
    targets=("gaussian-noise",),
)
def average_releases(view: AttackerView, *, sites: Sites = ORDER) -> Checkpoint:
    """Σ fit(θ_r) / R over the R releases, in float64.

    What differs between releases is what their keys drew. Gauges come off in the fit; noise that is drawn anew for
    each release falls by √R, which no single release allows.

    Args:
        view: Grants the base and further releases of the victim.
        sites: Kinds of sites to fit.

    Raises:
        BadInput: If a release has other tensors than the one that is attacked, or as `redteam.symmetry.fit_gauges`.
    """
    releases, first = view.releases, view.protected
    for release in releases:
        if set(release) != set(first) or any(release.shape(name) != first.shape(name) for name in first):
            raise BadInput("A further release has other tensors or shapes than the first; expected the same network.")
    fitted = [fit_all(release, view.anchor, sites) for release in releases]
    return first.replace({name: _mean([release[name] for release in fitted]) for name in sorted(first)})


def _mean(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.to(torch.float64) for tensor in tensors]).mean(0).to(tensors[0].dtype)
