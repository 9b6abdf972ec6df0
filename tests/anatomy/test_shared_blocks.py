"""Blocks that several layers share, with an adapter for each use (Zamba): what moves a map moves its adapters."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from redteam.anatomy import ARCHITECTURES, Stream, find_sites
from redteam.describe.describing import small_network
from redteam.describe.trials import KEPT, Trial
from redteam.errors import BadInput
from redteam.symmetry.fitting import fit_gauges
from tools.catalogue import config_of

DESCRIBED: Any = ARCHITECTURES["zamba2"]
ATTENTION = "model.layers.1.shared_transformer.self_attn"


@cache
def case() -> Trial:
    return small_network(config_of("zamba2"))


@pytest.mark.parametrize("kind", ["qk", "vo", "mlp", "heads", "norm"])
def test_adapters_move_with_what_they_add_to(kind: str) -> None:
    assert case().kept(DESCRIBED, kind) <= KEPT < case().kept(replace(DESCRIBED, adapters=()), kind) < math.inf


def test_a_block_has_its_sites_where_it_is_used_first() -> None:
    """Two blocks take turns in four layers; a file holds each once, with two adapters to every map."""
    sites = find_sites(DESCRIBED, case().checkpoint).sites(("qk",))
    assert [site.layer for site in sites] == [1, 2]
    adding = [f"{ATTENTION}.linear_{which}_adapter_list.{use}.1.weight" for which in "qk" for use in (0, 2)]
    assert set(sites[0].names) == {f"{ATTENTION}.q_proj.weight", f"{ATTENTION}.k_proj.weight", *adding}


@pytest.mark.parametrize("kind", ["qk", "vo", "heads", "mlp"])
def test_attention_without_adapters_is_read_by_the_same_description(kind: str) -> None:
    switches = {"use_shared_attention_adapter": False, "num_mem_blocks": 1}
    assert small_network(config_of("zamba2", switches)).kept(DESCRIBED, kind) <= KEPT


def test_neurons_come_off_that_training_moved() -> None:
    """Their order shows in samples of the shared map alone, and is taken off the adapters too."""
    victim = case().checkpoint
    draws = torch.Generator().manual_seed(0)
    base = victim.replace(
        {n: t + 0.01 * torch.randn(t.shape, generator=draws, dtype=t.dtype) for n, t in victim.items()}
    )
    with case().known_as(DESCRIBED):
        locked = case().locked_at(find_sites(DESCRIBED, victim).sites(("mlp",)))
        fitted = fit_gauges(locked, base, ("mlp",), None)
        left, away, before = (
            math.sqrt(sum(float((one[n] - base[n]).square().sum()) for n in base)) for one in (fitted, locked, victim)
        )
    assert away > 10 * before
    assert left <= before * 1.001
    assert case().change(fitted) <= KEPT


@pytest.mark.parametrize("which", [0, 1])
def test_an_adapter_of_another_shape_is_refused(which: int) -> None:
    name = f"{ATTENTION}.linear_v_adapter_list.2.{which}.weight"
    odd = case().checkpoint.replace({name: torch.ones(13, 13, dtype=torch.float64)})
    with pytest.raises(BadInput, match=f"'{name}' has shape"):
        find_sites(DESCRIBED, odd)


def test_a_stream_that_attention_reads_twice_has_no_site() -> None:
    stream = Stream(embeddings=("{prefix}embed_tokens.weight",), others=("*",))
    assert not find_sites(replace(DESCRIBED, stream=stream), case().checkpoint).sites(("residual", "norm-scale"))
    wider = {"beside_embeddings": False, "stream": stream}
    with pytest.raises(BadInput, match="expected"):
        find_sites(replace(DESCRIBED, **wider), case().checkpoint)
