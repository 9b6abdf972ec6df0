"""What of a network outside its blocks touches a residual stream, told by names and shapes and tried on numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import combinations, product
from typing import Any

from redteam.anatomy import Architecture, Network, Stream
from redteam.anatomy.blocks import Blocks
from redteam.anatomy.walk import sites_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.tensors import in_a_block
from redteam.describe.blocks import Settled
from redteam.describe.trials import KEPT, Trial

_MOST = 5  # maps outside the blocks that are tried with and without
_EMBEDDING = re.compile(r"embed|(^|\.)w[tp]e($|\.)|position|token", re.I)
_WRITES = re.compile(r"patch|conv|projection|mapping_in|feature_projection|project_in|proj_in", re.I)
_READS = re.compile(r"embed_out|unembed|lm_head|classifier", re.I)
_NORM = re.compile(r"norm|(^|[._])ln(_|\d|$|f)|layrnorm", re.I)


_Streams = tuple[tuple[Stream, tuple[str, ...]], ...]


def with_streams(trial: Trial, found: Sequence[Settled]) -> Network:
    """A network of the stacks that were settled, with the residual streams for which the numbers hold.

    Norms inside the blocks whose place nothing told stand on what is added to the stream, or behind the addition.
    """
    stacks = [one.architecture for one in found]
    for place, one in enumerate(found):
        for guess in _with_norms(one):
            network = Network((*stacks[:place], guess, *stacks[place + 1 :]))
            scaled = trial.kept(network, "norm-scale")
            if scaled <= KEPT or not _sites(trial, network, "norm-scale"):
                stacks[place] = guess
                break
    plain = Network(tuple(stacks))
    if trial.exact.unread:  # what no input reached may write to the stream, as a vision tower does
        return plain
    best = plain
    for tried, division in _variants(trial, plain):
        streams = _that_hold(trial, tried, division)
        if len(streams) == len(division):
            return replace(tried, streams=streams)
        if len(streams) > len(best.streams):
            best = replace(tried, streams=streams)
    return best


def _that_hold(trial: Trial, network: Network, division: _Streams) -> _Streams:
    """Of some streams, those that hold, each tried alone."""
    found = []
    for stream, parts in division:
        beside = tuple(name for other, its in division if its != parts for name in _names(trial.checkpoint, other))
        for scaled, reading in product((True, False), _readings(stream)):
            mine = replace(reading, scaled=scaled, others=(*reading.others, *beside))
            if _holds(trial, replace(network, streams=((mine, parts),))):
                found.append((mine, parts))
                break
    return tuple(found)


def _holds(trial: Trial, network: Network) -> bool:
    return _sites(trial, network, "residual") and all(
        trial.kept(network, kind) <= KEPT for kind in ("residual", "norm-scale", "norm") if _sites(trial, network, kind)
    )


def _names(checkpoint: Checkpoint, stream: Stream) -> Iterator[str]:
    """All tensors of a stream, whichever part they play, with `*` for the numbers of blocks."""
    stems = (*stream.writes, *stream.norms, *stream.heads)
    names = (f"{stem}.{which}" for stem in stems for which in ("weight", "bias"))
    for name in (*stream.embeddings, *stream.vectors, *stream.projections, *names):
        if name in checkpoint or "{layer}" in name:
            yield _in_any_block(name.replace("{layer}", "*"))
    yield from stream.others


def _in_any_block(name: str) -> str:
    """With `*` for the number of a block."""
    return re.sub(r"(^|\.)\d+(?=\.\w+\.)", r"\1*", name)


def _variants(trial: Trial, plain: Network) -> Iterator[tuple[Network, _Streams]]:
    """What the streams may be, the likelier first."""
    for division in _streams(trial, plain):
        for memory in dict.fromkeys((*_memories(trial, plain), None)):
            stacks = tuple(
                replace(x, memory_norm=memory) if _crosses(x) and x.attention_norm else x for x in plain.stacks
            )
            yield (
                replace(plain, stacks=tuple(x if "norm" in x.legal or x.post_norm else _with_gains(x) for x in stacks)),
                division,
            )
            if not any(_crosses(x) and x.attention_norm for x in plain.stacks):
                break


def _with_gains(stack: Architecture) -> Architecture:
    """With the gain of the last norm, where none inside the blocks is read by projections alone."""
    return replace(stack, legal={**stack.legal, "norm": "scaling"})


def _crosses(stack: Architecture) -> bool:
    return stack.part.endswith("cross")


def _memories(trial: Trial, network: Network) -> list[str]:
    """Norms that may be the last of an encoder."""
    width = Blocks(network.stacks[0], trial.checkpoint).width
    norms = (name.removesuffix(".weight") for name in trial.checkpoint if name.endswith(".weight"))
    found = [
        x
        for x in norms
        if "encoder" in x and not in_a_block(f"{x}.") and trial.checkpoint.shape(f"{x}.weight") == (width,)
    ]
    return sorted(found, key=lambda one: "embed" in one)


def _readings(stream: Stream) -> Iterator[Stream]:
    """With all maps outside the blocks that could touch the stream, then without some, which lie elsewhere."""
    maps = [*stream.heads[::-1], *stream.writes, *stream.norms[:-1]][:_MOST]
    entries = dict.fromkeys((stream.entry_norm, None))
    for few in range(len(maps) + 1):
        for gone in combinations(maps, few):
            others = (*stream.others, *(f"{one}.{which}" for one in gone for which in ("weight", "bias")))
            lists = (stream.heads, stream.writes, stream.norms)
            heads, writes, norms = (tuple(x for x in names if x not in gone) for names in lists)
            for entry in entries:
                if entry not in gone:
                    yield replace(stream, heads=heads, writes=writes, norms=norms, others=others, entry_norm=entry)


def _sites(trial: Trial, network: Network, kind: str) -> bool:
    anatomy = trial.anatomy(network)
    return anatomy is not None and bool(anatomy.sites((kind,)))


def _with_norms(one: Settled) -> list[Architecture]:
    arch = one.architecture
    if not one.norms or arch.part.endswith("cross"):
        return [arch]
    after = replace(arch, post_norms=(*arch.post_norms, *one.norms))
    return [after, replace(after, post_norm=True), arch] if not arch.post_norm else [after, arch]


def _streams(trial: Trial, network: Network) -> Iterable[_Streams]:
    """One stream for each stack, or one through all; what is left over belongs to the first that fits."""
    checkpoint = trial.checkpoint
    blocks = [Blocks(stack, checkpoint) for stack in network.stacks]
    for block in blocks:
        list(sites_of(block))
    used = {name for block in blocks for name in block.used}
    rest = [name for name in checkpoint if name not in used]
    beginnings = [(block.prefix + block.arch.first).partition("{layer}")[0] for block in blocks]
    parts = [block.arch.part for block in blocks]
    width = blocks[0].width
    whole = ((_by_layer(_stream(checkpoint, rest, width), beginnings), tuple(parts)),)
    alone = [part for part in parts if not part.endswith("cross")]
    roots = {
        part: block.arch.first.partition("{layer}")[0].split(".") for part, block in zip(parts, blocks, strict=True)
    }
    roots = {part: roots[part] for part in alone}
    found = []
    for part in alone:
        mine = [name for name in rest if _owner(name, roots) == part]
        size = next(block.width for block in blocks if block.arch.part == part)
        stream = _by_layer(_stream(checkpoint, mine, size), beginnings)
        found.append((stream, tuple(p for p in parts if p in (part, f"{part}-cross"))))
    linked = len(alone) < len(parts)
    yield whole if linked or len(alone) == 1 else tuple(found)
    if len(alone) > 1:
        yield tuple(found) if linked else whole


def _by_layer(stream: Stream, beginnings: Sequence[str]) -> Stream:
    """With one template for what all blocks have, where names go on after one of some beginnings."""

    def template(name: str) -> str:
        for one in beginnings:
            number = re.match(rf"{re.escape(one)}\d+(?=\.)", name)
            if number:
                return f"{one}{{layer}}{name[number.end() :]}"
        return name

    several: dict[str, Any] = {
        one.name: tuple(dict.fromkeys(map(template, value)))
        for one in fields(stream)
        if isinstance(value := getattr(stream, one.name), tuple) and one.name != "tied_classes"
    }
    others = tuple(dict.fromkeys(map(_in_any_block, several.pop("others"))))
    told: dict[str, Any] = {key: tuple(x for x in names if _in_any_block(x) == x) for key, names in several.items()}
    return replace(stream, **told, others=others)  # of what is left out nobody can tell: then there is no site


def _owner(name: str, roots: dict[str, list[str]]) -> str:
    """The part whose names have most of their beginning in common with a tensor's, or are about the same."""

    def shared(root: list[str]) -> int:
        pairs = zip(name.split("."), root, strict=False)
        equal = next((k for k, (a, b) in enumerate(pairs) if a != b), len(root))
        words = {word[:3] for step in root for word in step.split("_")}  # vision, visual
        words &= {word[:3] for word in name.replace(".", "_").split("_")}
        return 10 * equal + len(words)

    return max(roots, key=lambda part: shared(roots[part]))


def _stream(checkpoint: Checkpoint, names: Iterable[str], width: int) -> Stream:
    """Everything with a dimension of the stream's width, in the place that its name and shape speak for."""
    words = _vocabularies(checkpoint.config)
    embeddings: list[str] = []
    vectors: list[str] = []
    writes: list[str] = []
    norms: list[str] = []
    heads: list[str] = []
    projections: list[str] = []
    others: list[str] = []
    for name in names:
        shape, stem = checkpoint.shape(name), name.removesuffix(".weight")
        if width not in shape or name.endswith((".bias", "running_mean", "running_var")):
            others.append(name)
        elif len(shape) == 1:
            (norms if name.endswith(".weight") and _NORM.search(stem) else vectors).append(
                stem if name.endswith(".weight") and _NORM.search(stem) else name
            )
        elif shape[0] == width and _WRITES.search(name) and name.endswith(".weight"):
            writes.append(stem)
        elif shape[-1] == width and not _READS.search(name) and (_EMBEDDING.search(name) or _looked_up(shape, words)):
            embeddings.append(name)
        elif shape[-1] == width and name.endswith(".weight") and len(shape) == 2:
            heads.append(stem)
        elif shape[0] == width and len(shape) == 2:
            projections.append(name)
        else:
            others.append(name)
    bound = {f"{one}.bias" for one in (*writes, *norms, *heads)}
    return Stream(
        embeddings=tuple(embeddings),
        vectors=tuple(vectors),
        writes=tuple(writes),
        norms=tuple(_last(norms)),
        heads=tuple(heads),
        projections=tuple(projections),
        entry_norm=next((one for one in norms if re.search(r"pre_?la?y|ln_pre|embed", one, re.I)), None),
        others=tuple(dict.fromkeys(name for name in others if name not in bound)),
    )


def _looked_up(shape: tuple[int, ...], vocabularies: set[int]) -> bool:
    return len(shape) > 2 or shape[0] in vocabularies


def _vocabularies(config: Mapping[str, Any]) -> set[int]:
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    return {part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)}


def _last(norms: list[str]) -> list[str]:
    """The norm behind the blocks last, where names tell it."""
    return sorted(norms, key=lambda one: bool(re.search(r"final|post|ln_f|(^|\.)norm$|layernorm$", one)))
