"""The sites of a block's MLP: neurons, one by one or of all experts at once, and the experts themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from redteam.anatomy.adapted import AnyLinear
from redteam.anatomy.adapters import with_adapters
from redteam.anatomy.blocks import Blocks
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Gathered, Linear, Norm, Packed, Rows
from redteam.anatomy.numbered import numbered
from redteam.anatomy.site import Side, Site

DEGREES: Mapping[str, int] = {"relu": 1, "leaky_relu": 1, "relu2": 2}
"""Activations that take a positive factor out of their argument: name → to which power."""


@dataclass(frozen=True)
class _Maps:
    """What reads, what writes, and the sites of them."""

    reads: tuple[Linear, ...]
    writes: tuple[Linear, ...]
    sites: tuple[Site, ...]


def mlp_sites(blocks: Blocks, layer: int) -> Iterator[Site]:
    """Those of one layer; what they read and write is added to the blocks' lists."""
    arch = blocks.arch
    further = [maps for maps in arch.further if blocks.has(maps[0], layer)]
    main = arch.down is not None and (not arch.sparse or blocks.has_mlp(layer))
    if not main and not further:
        return
    norm = blocks.norm(arch.mlp_norm, layer)
    found = [_packed(blocks, layer, norm) if arch.packed else _one_by_one(blocks, layer, norm)] if main else []
    found += [_further(blocks, layer, norm, maps) for maps in further]
    for maps in found:
        yield from maps.sites
        blocks.reads += maps.reads
        blocks.writes += maps.writes
    blocks.reads += blocks.further(arch.mlp_reads, layer, norm)


def _neurons(
    blocks: Blocks,
    layer: int,
    up: AnyLinear,
    down: Linear,
    gate: AnyLinear | None,
    part: str,
    n: int,
    beside: tuple[Side, ...] = (),
) -> list[Site]:
    legal, between = _legal(blocks, gated=gate is not None)
    sides = Side(up), Side(down, columns=True)
    carried = (*(() if gate is None else (Side(gate),)), *beside)
    label = blocks.label(part)
    return [Site("mlp", layer, 1, n, *sides, legal, carried=carried, **between, part=label)] if legal else []


def _one_by_one(blocks: Blocks, layer: int, norm: Norm | None) -> _Maps:
    """An MLP, or experts each in tensors of their own."""
    model, n = blocks.width, blocks.neurons_of(layer)
    sizes = {"gate": (n, model)} if blocks.gated else {}
    sizes |= {"up": (n, model), "down": (model, n)}
    ups: list[Linear] = []
    downs: list[Linear] = []
    gates: list[Linear] = []
    sites: list[Site] = []
    beside = tuple(numbered(blocks, () if blocks.experts else blocks.arch.with_neurons, layer, n))
    for expert in range(max(blocks.experts, 1)):
        up = blocks.linear("up", layer, sizes, expert, norm=norm)
        down = blocks.linear("down", layer, sizes, expert, writes_centred=blocks.centred_writes)
        gate = blocks.linear("gate", layer, sizes, expert, norm=norm) if blocks.gated else None
        ups.append(up)
        downs.append(down)
        gates += [gate] if gate is not None else []
        part = f"expert-{expert}" if blocks.experts else ""
        read = with_adapters(blocks, "up", layer, up)
        gated = None if gate is None else with_adapters(blocks, "gate", layer, gate)
        sites += _neurons(blocks, layer, read, down, gated, part, n, beside)
    routers = []
    if blocks.experts:
        routers = [blocks.linear("router", layer, {"router": (blocks.experts, model)}, norm=norm)]
        also = [Side(Gathered(tuple(maps)), unit=n) for maps in (ups, gates) if maps]
        sites += _experts(blocks, layer, routers[0], Side(Gathered(tuple(downs)), unit=model), also)
    return _Maps((*ups, *gates, *routers), tuple(downs), tuple(sites))


def _experts(blocks: Blocks, layer: int, router: Linear, down: Side, also: list[Side]) -> list[Site]:
    also += numbered(blocks, blocks.arch.with_experts, layer, blocks.experts)
    order, part = subgroups("permutation"), blocks.arch.part
    site = Site("experts", layer, 1, blocks.experts, Side(router), down, order, left_too=tuple(also), part=part)
    return [] if blocks.arch.ordered_experts or _grouped(blocks) else [site]


def _grouped(blocks: Blocks) -> bool:
    """Whether some groups of experts are chosen before the experts are (DeepSeek), so that each keeps its members."""
    groups, chosen = (blocks.given(key) for key in ("n_group", "topk_group"))
    return isinstance(groups, int) and groups > 1 and groups != chosen


def _packed(blocks: Blocks, layer: int, norm: Norm | None) -> _Maps:
    """Experts that lie in one tensor: neurons of all of them are one site, with an expert in each place of a head."""
    arch, experts, model = blocks.arch, blocks.experts, blocks.width
    transposed = arch.packed == "in-out"
    up, up_bias = blocks.packed_names(arch.up, layer)
    gate, gate_bias = blocks.packed_names(arch.gate, layer) if arch.gate else (None, None)
    down, down_bias = blocks.packed_names(arch.down, layer)
    n = blocks.shape(down)[1 if transposed else 2]
    fused = gate == up
    stored = (experts, 2 * n if fused else n, model)
    blocks.expect(up, (stored[0], stored[2], stored[1]) if transposed else stored)
    first, second, step = (0, 1, 2) if arch.alternating else (0, n, 1)
    blocks.used |= {name for name in (up, up_bias, gate, gate_bias, down) if name}

    def rows(name: str, bias: str | None, start: int) -> Linear:
        where = Packed(start, n, step if fused else 1, transposed=transposed)
        return Linear(name, bias if bias in blocks.checkpoint else None, norm, packed=where)

    own_up = rows(up, up_bias, second if fused else 0)
    own_gate = None if gate is None else rows(gate, gate_bias, first)
    columns = Linear(
        down, None, writes_centred=blocks.centred_writes, packed=Packed(0, model, side=True, transposed=transposed)
    )
    router = blocks.linear("router", layer, {"router": (experts, model)}, norm=norm)
    legal, between = _legal(blocks, gated=own_gate is not None)
    gates = [] if own_gate is None else [own_gate]
    sites = []
    if legal:
        sides, carried = (Side(own_up), Side(columns, columns=True)), tuple(Side(one) for one in gates)
        sites = [Site("mlp", layer, experts, n, *sides, legal, carried=carried, **between, part=arch.part)]
    also = [Side(one, unit=n) for one in (own_up, *gates)]
    also += [Side(Linear(down_bias, None))] if down_bias in blocks.checkpoint else []
    whole = Linear(down, None, packed=Packed(0, model, transposed=transposed))
    sites += _experts(blocks, layer, router, Side(whole, unit=model), also)
    return _Maps((own_up, *gates, router), (columns,), tuple(sites))


def _further(blocks: Blocks, layer: int, norm: Norm | None, maps: tuple[str, str | None, str]) -> _Maps:
    """A shared expert, or an MLP in the place of a mixture."""
    up = blocks.whole(maps[0], layer, norm)
    down = replace(blocks.whole(maps[2], layer), writes_centred=blocks.centred_writes)
    gate = blocks.whole(maps[1], layer, norm) if blocks.has(maps[1], layer) else None
    n = blocks.shape(down.weight)[1]
    if maps[0] == maps[1]:  # the gate's rows come first, as everywhere
        gate, up = replace(up, rows=Rows(0, n)), replace(up, rows=Rows(n, n))
    reads = (up,) if gate is None else (up, gate)
    part = maps[0].split(".")[-2].replace("_", "-")
    return _Maps(reads, (down,), tuple(_neurons(blocks, layer, up, down, gate, part, n)))


def _legal(blocks: Blocks, *, gated: bool) -> tuple[frozenset[str], dict[str, Any]]:
    """The groups of neurons, and what stands between the two maps: its name, and the power of its factors."""
    largest, power, name = blocks.arch.legal.get("mlp"), 1, ""
    if largest == "permutation" and not blocks.arch.clamped:
        names = [blocks.given(key) for key in blocks.arch.activation]
        name = next((str(name) for name in names if name is not None), "")
        if gated:  # its other factor is the map itself
            largest = "scaled-permutation"
        elif name in DEGREES:
            largest, power = "positive-scaled-permutation", DEGREES[name]
    return subgroups(largest) if largest else frozenset(), {"power": power, "activation": name}
