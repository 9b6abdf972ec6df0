"""The sites of a stack of blocks, layer by layer: attention, MLP, and the norms that these read and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from redteam.anatomy.architecture import named
from redteam.anatomy.attention import attention_sites
from redteam.anatomy.blocks import Blocks
from redteam.anatomy.latent import latent_sites
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Linear, Norm
from redteam.anatomy.mlps import mlp_sites
from redteam.anatomy.scales import gain_of, scale_site
from redteam.anatomy.site import Side, Site
from redteam.errors import BadInput


def sites_of(blocks: Blocks) -> Iterator[Site]:
    """All sites inside the blocks."""
    for layer in range(blocks.layers):
        read, written = len(blocks.reads), len(blocks.writes)
        if blocks.attends(layer):
            yield from latent_sites(blocks, layer) if blocks.arch.latent else attention_sites(blocks, layer)
        _beside(blocks, layer)
        attention, outputs = blocks.reads[read:], blocks.writes[written:]
        read, written = len(blocks.reads), len(blocks.writes)
        yield from mlp_sites(blocks, layer)
        mlp, downs = blocks.reads[read:], blocks.writes[written:]
        yield from _norms(blocks, layer, attention, mlp)
        blocks.layer_scales += blocks.vectors(blocks.arch.layer_scales, layer)
        for template in blocks.arch.post_norms:
            _post_norm(blocks, template, layer)
        yield from _scales(blocks, layer, {"attention": (attention, outputs), "mlp": (mlp, downs)})


def _beside(blocks: Blocks, layer: int) -> None:
    """What reads and writes beside attention, or in its place."""
    arch = blocks.arch
    reads, writes = arch.attention_reads, arch.attention_writes
    if arch.sparse and not arch.latent and not blocks.attends(layer) and blocks.has(arch.query, layer):
        reads, writes = _of_others(blocks, layer)
    if any(blocks.has(one, layer) for one in reads):
        blocks.reads += blocks.further(reads, layer, blocks.norm(arch.attention_norm, layer))
    written = blocks.further(writes, layer, None)
    blocks.writes += [replace(linear, writes_centred=blocks.centred_writes) for linear in written]


def _of_others(blocks: Blocks, layer: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What reads and writes in an attention that takes its keys or values from elsewhere: no pairs of its own."""
    arch = blocks.arch
    norms = (blocks.name(one, layer=layer) for one in (arch.query_norm, arch.key_norm) if one)
    blocks.used |= {name for name in norms if name in blocks.checkpoint}
    own = (one for one in (arch.query, arch.key, arch.value) if one is not None)
    output = () if arch.output is None else (arch.output,)
    return (*arch.attention_reads, *own), (*arch.attention_writes, *output)


def _post_norm(blocks: Blocks, template: str, layer: int) -> None:
    norm = blocks.norm(template, layer)
    if norm is not None and not blocks.arch.post_norm:
        blocks.output_norms.append(norm)


def _scales(blocks: Blocks, layer: int, maps: Mapping[str, tuple[list[Linear], list[Linear]]]) -> Iterator[Site]:
    """Factors that norms inside a layer take out, given what each part of the layer reads and writes."""
    for part, (reads, writes) in maps.items():
        label = "/".join(filter(None, (blocks.arch.part, part)))
        if blocks.arch.post_norm and reads and reads[0].norm is not None:
            yield scale_site(layer, label, blocks.width, [gain_of(reads[0].norm)], writes, reads)
        elif writes and not blocks.arch.post_norm and any(blocks.has(one, layer) for one in blocks.arch.post_norms):
            yield scale_site(layer, f"{label}-output", blocks.width, writes)


def last_norm(blocks: Blocks) -> Iterator[Site]:
    """The gain of the last norm, where the description says what alone reads it."""
    arch = blocks.arch
    if blocks.tied or not arch.final_norm or not arch.readout:
        return
    weight, bias = named(arch.readout, "weight"), named(arch.readout, "bias")
    norm = blocks.norm(arch.final_norm, 0) if weight in blocks.checkpoint else None
    if norm is not None:
        yield from gain_read_by(blocks, [Linear(weight, bias if bias in blocks.checkpoint else None, norm)], "final")


def memory(blocks: Blocks) -> list[Linear]:
    """The maps that read another stack's output."""
    norm = blocks.arch.memory_norm and blocks.norm(blocks.arch.memory_norm, 0)
    return [linear for linear in blocks.reads if norm and linear.norm == norm]


def gain_read_by(blocks: Blocks, readers: list[Linear], part: str) -> Iterator[Site]:
    """The gain of a norm behind the last layer, given the maps that read it, if such gains are free here."""
    if readers and readers[0].norm is not None and "norm" in blocks.arch.legal:
        yield _gain(blocks, readers[0].norm, readers, blocks.layers, part)


def _norms(blocks: Blocks, layer: int, attention: list[Linear], mlp: list[Linear]) -> Iterator[Site]:
    """The gains of a block, given the maps that read what they scale."""
    if "norm" not in blocks.arch.legal:
        return
    if blocks.arch.memory_norm is not None:
        attention = attention[:1]
    readers = {"attention": attention, "mlp": mlp}
    if mlp and attention and attention[0].norm == mlp[0].norm:
        readers = {"block": [*attention, *mlp]}
    for part, linears in readers.items():
        if linears and linears[0].norm is not None:
            yield _gain(blocks, linears[0].norm, linears, layer, part)


def _gain(blocks: Blocks, norm: Norm, readers: list[Linear], layer: int, part: str) -> Site:
    columns, *others = (Side(linear, columns=True) for linear in readers)
    gain = Side(Linear(norm.weight, norm.bias, offset=norm.offset))
    label = "/".join(filter(None, (blocks.arch.part, part)))
    legal, shape = subgroups(blocks.arch.legal["norm"]), blocks.shape(norm.weight)
    if len(shape) != 1:
        raise BadInput(f"The tensor {norm.weight!r} has shape {list(shape)}; expected one gain for each dimension.")
    return Site("norm", layer, 1, shape[0], gain, columns, legal, (), tuple(others), part=label)
