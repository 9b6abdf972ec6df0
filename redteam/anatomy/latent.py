"""The sites of latent attention (DeepSeek): keys and values are raised from a short vector, queries often too.

With x what the attention reads, D and U maps down and up, and a norm between the two:

    latent   c = norm(D x)                     queries  (q, q′) = Uq norm(Dq x), or Wq x, head by head
    keys     k = Uk c, head by head            values   v = Uv c, head by head
    k′ = D′ x, one for all heads, which alone is turned with q′ by a rotary embedding; scores are q·k + q′·k′

so that q and k, and v and the output, are pairs as elsewhere, q′ of all heads makes one pair with k′, and a latent may
be put in another order, or in other signs, before its norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from redteam.anatomy.blocks import Blocks
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Linear, Norm, Rows
from redteam.anatomy.scales import gain_of, scale_site
from redteam.anatomy.site import Side, Site


def latent_sites(blocks: Blocks, layer: int) -> Iterator[Site]:
    """Those of one layer but the latents themselves, which are added to the blocks' list."""
    arch, heads = blocks.arch, blocks.heads
    norm = blocks.norm(arch.attention_norm, layer)
    down, output = blocks.whole(arch.latent, layer, norm), blocks.whole(arch.output, layer)
    latent = _norm(blocks, arch.latent_norm, layer)
    raised = blocks.whole(arch.key, layer, latent)
    size, value = _size(blocks, latent), blocks.shape(output.weight)[1] // heads
    key, turned = blocks.shape(raised.weight)[0] // heads - value, blocks.shape(down.weight)[0] - size
    blocks.expect(output.weight, (blocks.width, heads * value))
    blocks.expect(raised.weight, (heads * (key + value), size))

    further = blocks.whole(arch.latent_query, layer, norm) if blocks.has(arch.latent_query, layer) else None
    queries = None if further is None else _norm(blocks, arch.latent_query_norm, layer)
    template = arch.query if further is None else arch.raised_query or arch.query
    query = blocks.whole(template, layer, norm if further is None else queries)
    blocks.expect(query.weight, (heads * (key + turned), blocks.width if queries is None else _size(blocks, queries)))

    blocks.reads += [query if further is None else further, down]
    blocks.writes.append(replace(output, writes_centred=blocks.centred_writes))
    plain, rotary = _split(query, heads, key, turned)
    keys, values = _split(raised, heads, key, value)
    once = replace(down, rows=Rows(size, turned))
    legal = {kind: subgroups(largest) for kind, largest in arch.legal.items()}
    site = partial(Site, layer=layer, part=arch.part)
    if "qk" in legal:
        planes = "half" if arch.planes and blocks.given("rope_interleave") is False else arch.planes
        alone = legal["qk"] if planes is None else subgroups("planar")
        shared = {"left": Side(rotary, heads), "right": Side(once), "planes": planes}
        yield Site("qk", layer, 1, turned, legal=alone, part=blocks.label("rotary"), **shared)  # type: ignore[arg-type]
        yield site("qk", heads=heads, width=key, left=Side(plain), right=Side(keys), legal=legal["qk"])
    if "vo" in legal:
        columns = Side(output, columns=True)
        yield site("vo", heads=heads, width=value, left=Side(values), right=columns, legal=legal["vo"])
    if "heads" in legal:
        also = (Side(keys, unit=key), Side(values, unit=value), Side(rotary, unit=turned))
        left, right = Side(plain, unit=key), Side(output, columns=True, unit=value)
        yield site("heads", heads=1, width=heads, left=left, right=right, legal=legal["heads"], left_too=also)
    yield from _of_latent(blocks, layer, "latent", replace(down, rows=Rows(0, size)), [raised])
    if further is not None and queries is not None:
        readers = [query, *blocks.further(arch.latent_reads, layer, queries)]
        yield from _of_latent(blocks, layer, "query-latent", further, readers)


def _of_latent(blocks: Blocks, layer: int, name: str, down: Linear, readers: list[Linear]) -> Iterator[Site]:
    """The gain of a latent's norm, and the factor that the norm takes out."""
    norm, part = readers[0].norm, blocks.label(name)
    assert norm is not None, "what reads a latent reads its norm"
    size = _size(blocks, norm)
    columns = [Side(linear, columns=True) for linear in readers]
    legal, gain = blocks.arch.legal, Side(gain_of(norm))
    if "norm" in legal:
        scaling = subgroups(legal["norm"])
        yield Site("norm", layer, 1, size, gain, columns[0], scaling, right_too=tuple(columns[1:]), part=part)
    yield scale_site(layer, part, size, [down])
    if "residual" in legal:
        right, *rest = (replace(side, shared=True) for side in columns)
        carried = (replace(gain, shared=True),)
        group = subgroups(legal["residual"])
        found = Site("residual", layer, 1, size, Side(down), right, group, (), tuple(rest), carried, part=part)
        blocks.latents.append(found)


def _norm(blocks: Blocks, template: str | None, layer: int) -> Norm:
    weight = blocks.name(template, layer=layer)
    blocks.shape(weight)
    blocks.used.add(weight)
    return Norm(weight, None, centred=False, offset=blocks.arch.offset)


def _size(blocks: Blocks, norm: Norm) -> int:
    return blocks.shape(norm.weight)[0]


def _split(linear: Linear, heads: int, first: int, second: int) -> tuple[Linear, Linear]:
    """The two parts of every head."""
    both = first + second
    rows = Rows(0, heads * first, first, both), Rows(first, heads * second, second, both)
    return replace(linear, rows=rows[0]), replace(linear, rows=rows[1])
