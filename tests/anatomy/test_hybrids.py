"""Networks of which some layers have a state space or a convolution in the place of attention, or beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redteam.anatomy import ARCHITECTURES, find_sites
from redteam.describe import describing
from redteam.describe.describing import small_network
from redteam.describe.shrink import _shrunk
from redteam.describe.trials import KEPT
from tools.catalogue import config_of


@pytest.mark.parametrize(
    "name", ["lfm2", "nemotron_h", *(pytest.param(x, marks=pytest.mark.slow) for x in ("bamba", "falcon_h1", "jamba"))]
)
def test_a_stream_is_told_at_any_depth(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The description was found on fewer layers than it is tried on."""
    config = config_of(name)
    shallow = len(find_sites(ARCHITECTURES[name], small_network(config).checkpoint).sites(("norm",)))

    def deeper(given: dict[str, Any]) -> list[dict[str, Any]]:
        network = ARCHITECTURES.data(name)["network"]  # type: ignore[attr-defined]
        return [{**_shrunk(given, 8 if name == "jamba" else 5, 1), "architectures": [network]}]

    monkeypatch.setattr(describing, "small_configs", deeper)
    case = small_network(config)
    anatomy = find_sites(ARCHITECTURES[name], case.checkpoint)
    assert len(anatomy.sites(("norm",))) > shallow or name == "jamba"
    for kind in ("residual", "norm", "norm-scale"):
        assert case.kept(ARCHITECTURES[name], kind) <= KEPT, kind


def test_a_state_space_follows_the_stream() -> None:
    """Without its maps there is no stream, since they are tensors that nobody accounts for."""
    case, described = small_network(config_of("nemotron_h")), ARCHITECTURES["nemotron_h"]
    assert find_sites(described, case.checkpoint).sites(("residual",))
    without = replace(described, attention_reads=(), attention_writes=())  # type: ignore[type-var]
    assert not find_sites(without, case.checkpoint).sites(("residual",))
