"""The sites of a block's attention: pairs of maps inside a head, heads, queries of a group, and norms of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from redteam.anatomy.adapted import AnyLinear
from redteam.anatomy.adapters import with_adapters
from redteam.anatomy.blocks import Blocks
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Linear, Rows
from redteam.anatomy.numbered import numbered
from redteam.anatomy.scales import scale_site
from redteam.anatomy.site import Side, Site


def attention_sites(blocks: Blocks, layer: int) -> Iterator[Site]:
    """Those of one layer; what they read and write is added to the blocks' lists."""
    blocks.size_heads_of(layer)
    arch, n, groups, share = blocks.arch, blocks.n, blocks.groups, blocks.heads // blocks.groups
    read = blocks.read_width
    norm = blocks.norm(blocks.first_norm if layer == 0 and arch.first_norm else arch.attention_norm, layer, read)
    memory = norm if arch.memory_norm is None else blocks.norm(arch.memory_norm, layer)
    planes = None if blocks.unturned(layer) else arch.planes
    turned = None if planes is None else blocks.turned
    queries, keys, model = blocks.heads * n, groups * n, blocks.width
    sizes = {"query": (queries, read), "key": (keys, read), "value": (keys, read), "output": (model, queries)}
    output = blocks.linear("output", layer, sizes, writes_centred=blocks.centred_writes)
    free = arch.key_bias_free and blocks.normed == "none" and not blocks.clipped
    bound = (n, turned) if free and turned is not None else None
    free = free and planes is None
    value_free = arch.value_bias_free and output.bias is not None and not arch.gated_output and not blocks.clipped
    maps = {
        "query": blocks.linear("query", layer, sizes, norm=norm),
        "key": blocks.linear("key", layer, sizes, norm=memory, bias_free=free, bias_bound=bound),
        "value": blocks.linear("value", layer, sizes, norm=memory, bias_free=value_free),
    }
    halves = [replace(maps["query"], rows=Rows(n, queries, n, 2 * n))] if arch.gated_output else []
    blocks.reads += [*maps.values(), *halves]
    blocks.writes.append(output)
    query, key, value = (with_adapters(blocks, role, layer, one) for role, one in maps.items())
    gates = [with_adapters(blocks, "query", layer, one) for one in halves]

    legal = {kind: subgroups(largest) for kind, largest in arch.legal.items()}
    if planes is not None:
        legal["qk"] = subgroups("planar" if turned is None else "partial-planar")
    gains = _gains(blocks, layer) if blocks.normed != "none" else ()
    if gains:
        legal["qk"] = subgroups("plane-signs")
    if blocks.normed != "none" and arch.centred:  # a LayerNorm of queries and keys sees signs, and its gains move
        legal = {kind: group for kind, group in legal.items() if kind not in ("qk", "heads", "queries")}
    if arch.bare_norms and planes is not None:
        legal["qk"] = subgroups("plane-signs")
    if blocks.clipped:  # numbers are cut off one by one: signs and orders pass, and nothing else
        narrowed = {"qk": "plane-signs" if planes else "signed-permutation", "vo": "signed-permutation"}
        legal |= {kind: subgroups(group) & legal[kind] for kind, group in narrowed.items() if kind in legal}
    if blocks.given("alibi") is True:  # the slope of its bias belongs to a head
        legal = {kind: group for kind, group in legal.items() if kind not in ("heads", "queries")}
    if "qk" not in arch.legal or blocks.lends(layer):
        legal.pop("qk", None)
    if blocks.lends(layer):  # other layers' queries and outputs would have to follow
        legal = {kind: group for kind, group in legal.items() if kind not in ("vo", "heads", "queries")}
    if blocks.normed != "none":
        yield from _head_scales(blocks, layer, query, key)
    site = partial(Site, layer=layer, part=arch.part)
    rotary = partial(site, planes=planes, turned=turned)
    if "qk" in legal:
        yield rotary("qk", heads=groups, width=n, left=Side(query, share), right=Side(key), legal=legal["qk"])
    if "vo" in legal:
        columns = Side(output, share, columns=True)
        vo = partial(site, "vo", heads=groups, width=n, left=Side(value), right=columns)
        if gates:  # each of the output's dimensions is multiplied by a number of its own
            free_here = legal["vo"] & subgroups("scaled-permutation")
            yield vo(legal=free_here, carried=tuple(Side(gate, share) for gate in gates))
        else:
            yield vo(legal=legal["vo"])
    if gains and "qk" in legal and not blocks.clipped:
        heads, shares = (1, 1) if blocks.normed == "head" else (groups, share)
        left, right = Side(gains[0], shares), Side(gains[1])
        yield rotary("qk-norm", heads=heads, width=n, left=left, right=right, legal=subgroups("plane-scaling"))
    moving = gains if blocks.normed == "all" else ()
    numbers = tuple(numbered(blocks, arch.with_heads, layer, blocks.heads))
    if "heads" in legal:
        left, right = Side(query, unit=share * n), Side(output, columns=True, unit=share * n)
        also = [Side(key, unit=n), Side(value, unit=n), *(Side(gate, unit=share * n) for gate in gates)]
        also += [Side(gain, unit=unit) for gain, unit in zip(moving, (share * n, n), strict=False)]
        also += [replace(number, unit=share) for number in numbers]
        all_heads = partial(site, heads=1, width=groups, legal=legal["heads"])
        yield all_heads("heads", left=left, right=right, left_too=tuple(also))
    if {"heads", "queries"} <= legal.keys() and share > 1:
        left, right = Side(query, unit=n), Side(output, columns=True, unit=n)
        also = [Side(gain, unit=n) for gain in moving[:1]]
        also += [*(Side(gate, unit=n) for gate in gates), *numbers]
        of_group = partial(site, heads=groups, width=share, legal=legal["queries"])
        yield of_group("queries", left=left, right=right, left_too=tuple(also))


def _head_scales(blocks: Blocks, layer: int, query: AnyLinear, key: AnyLinear) -> Iterator[Site]:
    """Factors that the norms of queries and keys take out: of each head, or of all that one norm spans."""
    by_head = blocks.normed == "head" or len(blocks.normed_shape) > 1
    for part, linear, number in (("query", query, blocks.heads), ("key", key, blocks.groups)):
        heads, rows = (number, blocks.n) if by_head else (1, number * blocks.n)
        label = "/".join(filter(None, (blocks.arch.part, part)))
        yield scale_site(layer, label, rows, [linear], heads=heads)


def _gains(blocks: Blocks, layer: int) -> tuple[Linear, ...]:
    """Of the norms of queries and keys, unless these are LayerNorms, whose gains are no site."""
    names = [blocks.name(template, layer=layer) for template in (blocks.arch.query_norm, blocks.arch.key_norm)]
    blocks.used |= set(names)
    if blocks.arch.centred:
        blocks.used |= {name.removesuffix("weight") + "bias" for name in names}
        return ()
    n = blocks.n
    sizes = (n, n) if blocks.normed == "head" else (blocks.heads * n, blocks.groups * n)
    for name, size in zip(names, sizes, strict=True):
        blocks.expect(name, (size,))
    return tuple(Linear(name, None, offset=blocks.arch.offset) for name in names)
