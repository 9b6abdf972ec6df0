"""A network of one or several stacks of blocks, and the residual streams that run through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from redteam.anatomy.architecture import Anatomy, Architecture, ArchitectureLike, Shaped, Stream, named
from redteam.anatomy.blocks import Blocks
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Linear, Norm
from redteam.anatomy.scales import gain_of, scale_site
from redteam.anatomy.site import Side, Site
from redteam.anatomy.walk import gain_read_by, last_norm, memory, sites_of
from redteam.checkpoint.pooling import HEAD, POOLING
from redteam.checkpoint.tensors import NUMBERS, classes_of


@dataclass(frozen=True)
class Network:
    """Stacks of blocks: the towers of a CLIP, the encoder and decoder of a T5.

    Attributes:
        stacks: In order. Those of which a checkpoint has nothing are passed over, as long as one is there.
        streams: Residual streams, each with the parts that it runs through.
    """

    stacks: tuple[Architecture, ...]
    streams: tuple[tuple[Stream, tuple[str, ...]], ...] = ()

    def anatomy(self, checkpoint: Shaped) -> Anatomy:
        """Finds the sites of a checkpoint; raises as `find_sites`."""
        there = [stack for stack in self.stacks if stack.prefix(checkpoint) is not None] or list(self.stacks[:1])
        blocks = [Blocks(stack, checkpoint) for stack in there]
        places = [site for block in blocks for site in sites_of(block)]
        streams = self._streams(blocks, checkpoint)
        for block in blocks:
            if all(block not in mine for mine, _ in streams):
                places += last_norm(block)
        for mine, outside in streams:
            places += _last_gains(mine, outside)
            places = [*(_scales(mine, outside) if outside.scaled else ()), *places]
        latents = [site for block in blocks for site in block.latents]
        return Anatomy(
            tuple(places), lambda: (*(_residual(mine, outside, checkpoint) for mine, outside in streams), *latents)
        )

    def recognises(self, checkpoint: Shaped) -> int:
        """As `Architecture.recognises`, of all stacks of which the checkpoint has something."""
        found = [stack.recognises(checkpoint) for stack in self.stacks if stack.prefix(checkpoint) is not None]
        return sum(found) if all(found) else 0

    def _streams(self, blocks: list[Blocks], checkpoint: Shaped) -> list[tuple[list[Blocks], _Outside]]:
        """Each stream's blocks and what lies outside of them; none if a tensor is not described."""
        known = {NUMBERS, *(name for block in blocks for name in block.used)}
        found = []
        others: tuple[str, ...] = ()
        for described, parts in self.streams:
            stream = _with_head_on_states(described, checkpoint)
            mine = [block for block in blocks if block.arch.part in parts]
            plain = not any(block.arch.beside_embeddings for block in mine)  # else attention reads it twice
            if mine and plain and stream is not None:
                outside = _Outside(stream, mine[0], checkpoint)
                known |= outside.used
                others += outside.others
                found.append((mine, outside))
        told = all(name in known or any(fnmatchcase(name, other) for other in others) for name in checkpoint)
        return found if told else []


def find_sites(architecture: Architecture | ArchitectureLike, checkpoint: Shaped) -> Anatomy:
    """The sites of a checkpoint, given what its model type is described by.

    Names, shapes and the config are read, and gains where a stream is described.

    Raises:
        BadInput: If the config lacks a number, or a tensor is missing or has another shape than the config says.
    """
    if isinstance(architecture, Architecture):
        streams = ((architecture.stream, (architecture.part,)),) if architecture.stream else ()
        architecture = Network((architecture,), streams)
    return architecture.anatomy(checkpoint)


def _with_head_on_states(stream: Stream, checkpoint: Shaped) -> Stream | None:
    """A stream that is read by the head put on a bare network; none where its states are what that gives out."""
    if POOLING not in checkpoint.config:
        return stream
    head = HEAD[0].removesuffix(".weight")
    if HEAD[0] not in checkpoint:
        return None
    return stream if head in stream.heads else replace(stream, heads=(*stream.heads, head))


class _Outside:
    """What of a stream lies outside the blocks of a checkpoint."""

    def __init__(self, stream: Stream, block: Blocks, checkpoint: Shaped) -> None:
        self.used: set[str] = set()
        self.scaled = stream.scaled

        def met(templates: tuple[str, ...]) -> list[str]:
            stems = [t.format(prefix=block.prefix, layer=n) for t in templates for n in range(block.layers)]
            return list(dict.fromkeys(stems))

        def there(templates: tuple[str, ...], *which: str) -> list[list[str]]:
            names = [[named(stem, w) for w in which] for stem in met(templates)]
            found = [group for group in names if group[0] in checkpoint]
            self.used |= {name for group in found for name in group}
            return found

        def plain(templates: tuple[str, ...], *, transposed: bool = False) -> list[Linear]:
            names = met(templates)
            self.used |= {name for name in names if name in checkpoint}
            return [Linear(name, None, transposed=transposed) for name in names if name in checkpoint]

        def norms(templates: tuple[str, ...]) -> list[Norm]:
            return [
                Norm(weight, bias if bias in checkpoint else None, block.arch.centred, block.arch.offset)
                for weight, bias in there(templates, "weight", "bias")
            ]

        def maps(templates: tuple[str, ...]) -> list[Linear]:
            names = there(templates, "weight", "bias")
            return [Linear(weight, bias if bias in checkpoint else None) for weight, bias in names]

        others = met(stream.others)
        self.used |= {name for name in others if "*" not in name}
        self.others = tuple(name for name in others if "*" in name)
        self.embeddings = plain(stream.embeddings)
        self.vectors = plain(stream.vectors)
        self.writes = maps(stream.writes)
        self.projections = plain(stream.projections, transposed=True)
        self.heads = maps(stream.heads)
        self.norms = norms(stream.norms)
        self.entry = next(iter(norms(() if stream.entry_norm is None else (stream.entry_norm,))), None)
        classes = classes_of(checkpoint.config)
        language = any(part in name for part in stream.tied_classes for name in classes)
        self.tied = block.tied and language
        self.tells = not block.tied or bool(classes)
        """Whether it can be told what reads the stream last: a tied head is no tensor."""

    @property
    def readers(self) -> list[Linear]:
        """The heads of the network, without biases, which no gauge of the stream moves."""
        return [*(replace(head, bias=None) for head in self.heads), *self.projections]


def _residual(blocks: list[Blocks], outside: _Outside, checkpoint: Shaped) -> Site:
    """All that touches a stream; what no other gauge moves comes first."""
    arch, width = blocks[0].arch, blocks[0].width
    norms = list(dict.fromkeys([norm for block in blocks for norm in block.norms] + outside.norms))
    lefts = [Side(linear, columns=True) for linear in outside.embeddings]
    lefts += [Side(linear) for linear in outside.vectors + outside.writes]
    lefts += [Side(Linear(norm.bias, None), shared=True) for norm in norms if norm.bias is not None]
    lefts += [Side(linear, shared=True) for linear in _whole(x for block in blocks for x in block.writes)]
    rights = [Side(linear, columns=True, shared=True) for linear in outside.readers]
    rights += [Side(x, columns=True, shared=True) for x in _whole(x for block in blocks for x in block.reads)]
    gains = [Side(Linear(norm.weight, None, offset=norm.offset), shared=True) for norm in norms]
    gains += [Side(scales, shared=True) for block in blocks for scales in block.layer_scales]
    legal = subgroups("mirrored-permutation" if arch.centred else "signed-permutation")
    if not arch.centred and all(_constant(checkpoint[norm.weight]) for norm in norms):
        legal |= subgroups("orthogonal")
    part = "" if len(blocks) > 1 else arch.part
    return Site(
        "residual",
        0,
        1,
        width,
        lefts[0],
        rights[0],
        legal,
        tuple(lefts[1:]),
        tuple(rights[1:]),
        tuple(gains),
        part=part,
        spanning=True,
    )


def _last_gains(blocks: list[Blocks], outside: _Outside) -> Iterable[Site]:
    """The gains of norms behind the last layer that maps alone read."""
    if outside.norms and not outside.tied and outside.tells:
        norm = outside.norms[-1]
        readers = [replace(linear, norm=norm) for linear in (*outside.heads, *outside.projections)]
        yield from gain_read_by(blocks[-1], readers, "final")
    for block in blocks:
        yield from gain_read_by(block, memory(block), "memory")


def _scales(blocks: list[Blocks], outside: _Outside) -> Iterable[Site]:
    """The factors of a stream, and of the embeddings where a norm writes the stream anew."""
    arch, width, last = blocks[0].arch, blocks[0].width, blocks[-1]
    part = arch.part if len(blocks) == 1 else ""
    named = {name: "/".join(filter(None, (part, name))) for name in ("embeddings", "stream", "final")}
    centred = blocks[0].centred_writes
    embeddings = [replace(x, transposed=True, writes_centred=centred) for x in outside.embeddings]
    embeddings += [replace(x, writes_centred=centred) for x in (*outside.vectors, *outside.writes)]
    if embeddings and (arch.post_norm or outside.entry is not None):
        yield scale_site(0, named["embeddings"], width, embeddings)
    if arch.post_norm:
        if outside.heads and last.norms:
            yield scale_site(last.layers, named["final"], width, [gain_of(last.norms[-1])], (), outside.readers)
        return
    if not outside.tells:
        return
    own = embeddings if outside.entry is None else [gain_of(outside.entry)]
    writes = _whole(x for block in blocks if not block.output_norms for x in block.writes)
    gains = [gain_of(norm) for block in blocks for norm in block.output_norms]
    readers = _whole(x for block in blocks for x in block.reads if x.norm is None)
    last_norm = outside.norms[-1:] if outside.tied else []
    if own or gains:  # of a part of a network, nothing tells the factor
        yield scale_site(0, named["stream"], width, [*own, *gains], writes, readers, gains=last_norm, spanning=True)


def _whole(linears: Iterable[Linear]) -> list[Linear]:
    """The tensors that some maps lie in, each once, with the norm that they read."""
    found: dict[str, Linear] = {}
    for linear in linears:
        bias = linear.bias if linear.norm is None else None
        found.setdefault(
            linear.weight, Linear(linear.weight, bias, linear.norm, linear.writes_centred, transposed=linear.transposed)
        )
    return list(found.values())


def _constant(gain: torch.Tensor) -> bool:
    return bool((gain == gain.flatten()[0]).all())
