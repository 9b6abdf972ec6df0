"""Charts: coordinates of gauges, which are legal wherever they lead and can be differentiated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from redteam.anatomy import Site, anatomy_of
from redteam.symmetry.charts import Chart, chart_of
from redteam.symmetry.fitting import apart, looked_up, moved


def charted(case: Any) -> list[tuple[Site, Chart]]:
    found = [(site, chart) for site in anatomy_of(case.checkpoint).places if (chart := chart_of(site)) is not None]
    if not found:
        pytest.skip("gauges of this network lie apart")
    return found


def coordinates(site: Site, chart: Chart, size: float) -> torch.Tensor:
    draws = torch.Generator().manual_seed(site.layer)
    return size * torch.randn(site.heads, chart.width, dtype=torch.float64, generator=draws)


def test_every_place_of_a_chart_keeps_the_function_and_its_origin_the_weights(case: Any) -> None:
    found = charted(case)
    for size in (0.0, 0.1):
        gauges = {site.label: chart.gauge(coordinates(site, chart, size)) for site, chart in found}
        there = case.checkpoint
        for sites in apart([site for site, _ in found]):
            there = moved(there, sites, looked_up(gauges))
        away = sum(float((there[name] - case.checkpoint[name]).abs().sum()) for name in there)
        assert away > 1 if size else away == 0
        assert case.change(there) <= 1e-10


def test_the_gauge_is_one_of_the_group(case: Any) -> None:
    for site, chart in charted(case):
        assert chart.gauge(coordinates(site, chart, 0.1)).groups & site.legal, site.label


def test_the_slope_is_that_of_a_difference(case: Any) -> None:
    site, chart = charted(case)[0]
    if site.spanning:
        pytest.skip("a stream's tensors are rewritten one by one")

    def size(x: torch.Tensor) -> torch.Tensor:
        found = moved(case.checkpoint, (site,), looked_up({site.label: chart.gauge(x)}))
        return torch.stack([found[name].square().sum() for name in site.names]).sum()

    x = coordinates(site, chart, 0.1)
    step = coordinates(site, chart, 1.0)
    with torch.enable_grad():
        slope = torch.autograd.grad(size(leaf := x.requires_grad_()), leaf)[0]
    h = 1e-6
    wanted = (size(x.detach() + h * step) - size(x.detach() - h * step)) / (2 * h)
    assert float((slope * step).sum()) == pytest.approx(float(wanted), rel=1e-5, abs=1e-6)
