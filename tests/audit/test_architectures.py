"""On every architecture: fine-tuning is no lock, and locks of the largest legal groups everywhere are found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from redteam.anatomy import anatomy_of
from redteam.audit import audit
from redteam.key import Key
from redteam.symmetry import widest
from redteam.symmetry.fitting import moved, sites_by_kind

spec = importlib.util.spec_from_file_location("audit_networks", Path(__file__).with_name("networks.py"))
assert spec is not None
assert spec.loader is not None
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)

KEY = Key.derive(seed=0, index=1, name="audit")
FAST = 6
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (i >= FAST)) for i, kind in enumerate(networks.NETWORKS)]


@pytest.mark.parametrize("kind", KINDS)
def test_on_every_architecture(kind, tmp_path, tuned):
    base = networks.network(kind, tmp_path / "base")
    expert = tuned(base)
    assert {site.state for site in audit(expert, base).sites} == {"unlocked"}

    locked, groups = expert, {}
    for name in dict.fromkeys(site.kind for site in anatomy_of(base).places):
        for sites in sites_by_kind(locked, (name,), None):
            gauges = {
                site.label: widest(site).sample(site.heads, site.width, KEY.generator(site.label)) for site in sites
            }
            locked = moved(locked, sites, lambda site, gauges=gauges: gauges[site.label])
            groups |= {label: gauge.group for label, gauge in gauges.items()}
    found = audit(locked, base)
    assert len(found.sites) == len(groups)
    for site in found.sites:
        # Two groups of heads in their old order are no lock.
        assert site.group == groups[site.site] or (site.state == "unlocked" and site.before < 0.2), site
        assert site.after < 0.2


def test_a_lock_on_one_tower_is_told_by_its_name(tmp_path, tuned):
    base = networks.network("clip", tmp_path / "base")
    expert = tuned(base)
    sites = [site for site in anatomy_of(base).sites(("vo",)) if site.part == "vision"]
    locked = moved(expert, sites, lambda site: widest(site).sample(site.heads, site.width, KEY.generator(site.label)))
    assert (
        audit(locked, base)
        .summary[0]
        .startswith("A lock of the general-linear group sits on vo (vision) of all 2 layers;")
    )
