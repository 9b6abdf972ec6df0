"""A network of one or several stacks of blocks, and the residual streams that run through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from redteam.anatomy.architecture import Anatomy, Architecture, Shaped, Stream, named
from redteam.anatomy.blocks import Blocks
from redteam.anatomy.legality import within
from redteam.anatomy.linear import Linear, Norm
from redteam.anatomy.site import Side, Site


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
        """As `Architecture.anatomy`."""
        there = [stack for stack in self.stacks if stack.prefix(checkpoint) is not None] or list(self.stacks[:1])
        blocks = [Blocks(stack, checkpoint) for stack in there]
        places = tuple(site for block in blocks for site in block.places())
        return Anatomy(places, lambda: tuple(self._residuals(blocks, checkpoint)))

    def recognises(self, checkpoint: Shaped) -> int:
        """As `Architecture.recognises`, of all stacks of which the checkpoint has something."""
        found = [stack.recognises(checkpoint) for stack in self.stacks if stack.prefix(checkpoint) is not None]
        return sum(found) if all(found) else 0

    def _residuals(self, blocks: list[Blocks], checkpoint: Shaped) -> Iterable[Site]:
        known = {name for block in blocks for name in block.used}
        found = []
        others: tuple[str, ...] = ()
        for stream, parts in self.streams:
            mine = [block for block in blocks if block.arch.part in parts]
            if mine:
                outside = _Outside(stream, mine[0], checkpoint)
                known |= outside.used
                others += outside.others
                found.append((mine, outside))
        if all(name in known or any(fnmatchcase(name, other) for other in others) for name in checkpoint):
            yield from (_residual(mine, outside, checkpoint) for mine, outside in found)


class _Outside:
    """What of a stream lies outside the blocks of a checkpoint."""

    def __init__(self, stream: Stream, block: Blocks, checkpoint: Shaped) -> None:
        self.used: set[str] = set()
        self.others = tuple(name.format(prefix=block.prefix) for name in stream.others)

        def there(templates: tuple[str, ...], *which: str) -> list[list[str]]:
            names = [[named(t.format(prefix=block.prefix), w) for w in which] for t in templates]
            found = [group for group in names if group[0] in checkpoint]
            self.used |= {name for group in found for name in group}
            return found

        plain = [t.format(prefix=block.prefix) for t in (*stream.embeddings, *stream.vectors)]
        self.used |= {name for name in plain if name in checkpoint}
        embeddings = [t.format(prefix=block.prefix) for t in stream.embeddings]
        self.embeddings = [Linear(name, None) for name in embeddings if name in checkpoint]
        vectors = [t.format(prefix=block.prefix) for t in stream.vectors]
        self.vectors = [Linear(name, None) for name in vectors if name in checkpoint]
        maps = there(stream.writes, "weight", "bias")
        self.writes = [Linear(weight, bias if bias in checkpoint else None) for weight, bias in maps]
        self.heads = [Linear(weight, None) for weight, _ in there(stream.heads, "weight", "bias")]
        self.norms = [
            Norm(weight, bias if bias in checkpoint else None, block.arch.centred, block.arch.offset)
            for weight, bias in there(stream.norms, "weight", "bias")
        ]


def _residual(blocks: list[Blocks], outside: _Outside, checkpoint: Shaped) -> Site:
    """All that touches a stream; what no other gauge moves comes first."""
    arch, width = blocks[0].arch, blocks[0].width
    norms = list(dict.fromkeys([norm for block in blocks for norm in block.norms] + outside.norms))
    lefts = [Side(linear, columns=True) for linear in outside.embeddings]
    lefts += [Side(linear) for linear in outside.vectors + outside.writes]
    lefts += [Side(Linear(norm.bias, None), shared=True) for norm in norms if norm.bias is not None]
    lefts += [Side(linear, shared=True) for linear in _whole(x for block in blocks for x in block.writes)]
    rights = [Side(linear, columns=True, shared=True) for linear in outside.heads]
    rights += [Side(x, columns=True, shared=True) for x in _whole(x for block in blocks for x in block.reads)]
    gains = [Side(Linear(norm.weight, None, offset=norm.offset), shared=True) for norm in norms]
    legal = within("mirrored-permutation" if arch.centred else "signed-permutation")
    if not arch.centred and all(_constant(checkpoint[norm.weight]) for norm in norms):
        legal |= within("orthogonal")
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
    )


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
