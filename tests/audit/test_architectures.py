"""On every architecture: fine-tuning is no lock, and locks of the largest legal groups everywhere are found."""

from __future__ import annotations

import pytest

from redteam.anatomy import anatomy_of
from redteam.audit import audit
from redteam.key import Key
from redteam.symmetry import largest_legal_group
from redteam.symmetry.fitting import moved, sites_by_kind
from tests.zoo import NETWORKS, network

KEY = Key.derive(seed=0, index=1, name="audit")
QUICK = ("llama", "qwen3", "mixtral", "t5", "resnet", "open-clip")
"""Between them they have every kind of site, fused layouts and two towers."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NETWORKS],
)
def test_on_every_architecture(name, tuned):
    base = network(name).checkpoint
    expert = tuned(base)
    assert {site.state for site in audit(expert, base).sites} == {"unlocked"}

    locked, groups = expert, {}
    for kind in dict.fromkeys(site.kind for site in anatomy_of(base).places):
        for sites in sites_by_kind(locked, (kind,), None):
            gauges = {
                site.label: largest_legal_group(site).sample(site.heads, site.width, KEY.generator(site.label))
                for site in sites
            }
            locked = moved(locked, sites, lambda site, gauges=gauges: gauges[site.label])
            groups |= {label: gauge.group for label, gauge in gauges.items()}
    found = audit(locked, base)
    assert len(found.sites) == len(groups)
    for site in found.sites:
        # Two groups of heads in their old order are no lock.
        assert site.group == groups[site.site] or (site.state == "unlocked" and site.before < 0.2), site
        assert site.after < 0.2


def test_a_lock_on_one_tower_is_told_by_its_name(tuned):
    base = network("clip").checkpoint
    sites = [site for site in anatomy_of(base).sites(("vo",)) if site.part == "vision"]
    locked = moved(
        tuned(base),
        sites,
        lambda site: largest_legal_group(site).sample(site.heads, site.width, KEY.generator(site.label)),
    )
    assert (
        audit(locked, base)
        .summary[0]
        .startswith("A lock of the general-linear group sits on vo (vision) of all 2 layers;")
    )
