"""Architectures as data: name templates and flags, and the sites that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from redteam.anatomy.legality import Layout, within
from redteam.anatomy.linear import Linear, Norm
from redteam.anatomy.site import Side, Site
from redteam.errors import BadInput, UnknownName

Kind = Literal["qk", "vo", "mlp", "heads", "queries", "norm"]
Sites = tuple[Kind, ...]
"""The type of a plugin's setting that names kinds of sites."""
KINDS: Sites = ("qk", "vo", "mlp")
"""The kinds of sites taken by default: pairs of maps, no two of which share a row or column."""


class Shaped(Protocol):
    """What is needed of a checkpoint to find its sites: no tensor is read."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The parsed `config.json`."""

    def shape(self, name: str, /) -> tuple[int, ...]:
        """The shape of a tensor."""

    def __contains__(self, name: object, /) -> bool: ...


@dataclass(frozen=True)
class Anatomy:
    """Where the sites of one checkpoint are.

    Attributes:
        places: All of them, layer by layer.
    """

    places: tuple[Site, ...]

    def sites(self, kinds: Iterable[str] = KINDS) -> tuple[Site, ...]:
        """The sites of some kinds, ordered by layer; none of a kind that the architecture does not have.

        Raises:
            UnknownName: If there is no such kind.
        """
        wanted = set(kinds)
        for kind in sorted(wanted - set(get_args(Kind))):
            raise UnknownName.among("kind of site", kind, get_args(Kind))
        return tuple(site for site in self.places if site.kind in wanted)


PRE_NORM: Mapping[str, str] = {
    "qk": "general-linear",
    "vo": "general-linear",
    "mlp": "permutation",
    "heads": "permutation",
    "queries": "permutation",
    "norm": "scaling",
}
"""The largest legal group by kind of site where norms stand before the blocks, with any activation in the MLP."""


@dataclass(frozen=True)
class Architecture:
    """What the checkpoints of a model type have in common.

    Templates take `{layer}`, those of norms also `{previous}` (the layer before); `.weight` and `.bias` are added.
    Projections with the same template are fused: their rows follow one another, query, key, value. Whether a bias is
    there is read off the checkpoint.

    Attributes:
        query, key, value, output, up, down: Templates of the projections.
        attention_norm, mlp_norm: Templates of the norms that the projections read.
        first_norm: What the first layer's attention reads in place of `attention_norm`, where that is another.
        prefixes: What may stand before every template, tried in this order.
        layers, width, heads, neurons: Keys of the config.
        kv_heads: Key of the config; as many as there are heads where the config lacks it.
        head_width: Key of the config; width / heads where the config lacks it.
        fixed_head_width: Whether the network takes width / heads, whatever the config says.
        centred: Whether norms are LayerNorms, and what is written is read by LayerNorms only: blocks with the norm
            before (pre-norm), or straight after the addition (post-norm).
        key_bias_free: Whether softmax ignores the key bias: no rotary embedding and no norm of queries and keys.
        planes: Layout of the rotary planes, if queries and keys are rotated by position. Then qk allows planar gauges
            of that layout and nothing else, and softmax does not ignore the key bias.
        transposed: Whether weights are stored [in, out].
        legal: The largest group that keeps the function, by kind of site; a kind that is left out has no sites. Leave
            out norm where more than projections read what a norm writes: in post-norm blocks the stream does.
    """

    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    attention_norm: str
    mlp_norm: str
    first_norm: str | None = None
    prefixes: tuple[str, ...] = ("",)
    layers: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    head_width: str = "head_dim"
    fixed_head_width: bool = False
    neurons: str = "intermediate_size"
    centred: bool = True
    key_bias_free: bool = True
    planes: Layout | None = None
    transposed: bool = False
    legal: Mapping[str, str] = field(default_factory=lambda: dict(PRE_NORM))

    def anatomy(self, checkpoint: Shaped) -> Anatomy:
        """Finds the sites of a checkpoint; reads names, shapes and the config only.

        Raises:
            BadInput: If the config lacks a number, or a tensor is missing or has another shape than the config says.
        """
        return Anatomy(_Found(self, checkpoint).places())


class _Found:
    """An architecture met in a checkpoint."""

    def __init__(self, architecture: Architecture, checkpoint: Shaped) -> None:
        self.arch, self.checkpoint = architecture, checkpoint
        self.layers, self.width, self.heads, self.neurons = (
            self.number(name)
            for name in (architecture.layers, architecture.width, architecture.heads, architecture.neurons)
        )
        self.groups = self.number(architecture.kv_heads, self.heads)
        self.n = self.number(architecture.head_width, self.width // self.heads)
        if self.heads % self.groups:
            raise BadInput(
                f"The config has {self.heads} heads in {self.groups} groups; expected the same number in each."
            )
        first = architecture.query.format(layer=0) + ".weight"
        found = [prefix for prefix in architecture.prefixes if prefix + first in checkpoint]
        if not found:
            tried = " or ".join(repr(prefix + first) for prefix in architecture.prefixes)
            raise BadInput(
                f"The checkpoint has no tensor {tried}; expected the names that its model type is saved with."
            )
        self.prefix = found[0]

    def number(self, name: str, default: int = 0) -> int:
        value = self.checkpoint.config.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise BadInput(f"The config has {name} = {value!r}; expected a positive whole number.")
        return value

    def places(self) -> tuple[Site, ...]:
        return tuple(site for layer in range(self.layers) for site in self.layer(layer))

    def layer(self, layer: int) -> Iterator[Site]:
        arch, n, groups, share = self.arch, self.n, self.groups, self.heads // self.groups
        first = arch.first_norm if layer == 0 else None
        reads, reads_too = self.norm(first or arch.attention_norm, layer), self.norm(arch.mlp_norm, layer)
        queries, keys, model = self.heads * n, groups * n, self.width
        sizes = {"query": (queries, model), "key": (keys, model), "value": (keys, model), "output": (model, queries)}
        sizes |= {"up": (self.neurons, model), "down": (model, self.neurons)}
        output = self.linear("output", layer, sizes, writes_centred=arch.centred)
        query = self.linear("query", layer, sizes, norm=reads)
        key = self.linear("key", layer, sizes, norm=reads, bias_free=arch.key_bias_free and arch.planes is None)
        value = self.linear("value", layer, sizes, norm=reads, bias_free=output.bias is not None)
        up = self.linear("up", layer, sizes, norm=reads_too)
        down = self.linear("down", layer, sizes, writes_centred=arch.centred)

        legal = {kind: within(largest) for kind, largest in arch.legal.items()}
        if arch.planes is not None:
            legal["qk"] = within("planar")
        if "qk" in legal:
            yield Site("qk", layer, groups, n, Side(query, share), Side(key), legal["qk"], planes=arch.planes)
        if "vo" in legal:
            yield Site("vo", layer, groups, n, Side(value), Side(output, share, columns=True), legal["vo"])
        if "mlp" in legal:
            yield Site("mlp", layer, 1, self.neurons, Side(up), Side(down, columns=True), legal["mlp"])
        if "heads" in legal:
            whole, columns = Side(query, unit=share * n), Side(output, columns=True, unit=share * n)
            also = Side(key, unit=n), Side(value, unit=n)
            yield Site("heads", layer, 1, groups, whole, columns, legal["heads"], left_too=also)
        if {"heads", "queries"} <= legal.keys() and share > 1:
            whole, columns = Side(query, unit=n), Side(output, columns=True, unit=n)
            yield Site("queries", layer, groups, share, whole, columns, legal["queries"])
        if "norm" in legal:
            readers = {"attention": (reads, (query, key, value)), "mlp": (reads_too, (up,))}
            if reads == reads_too:
                readers = {"block": (reads, (query, key, value, up))}
            for part, (norm, linears) in readers.items():
                gain, (columns, *others) = (
                    Side(Linear(norm.weight, norm.bias)),
                    (Side(x, columns=True) for x in linears),
                )
                yield Site("norm", layer, 1, model, gain, columns, legal["norm"], (), tuple(others), part=part)

    def norm(self, template: str, layer: int) -> Norm:
        stem = self.prefix + template.format(layer=layer, previous=layer - 1)
        self.expect(stem + ".weight", (self.width,))
        return Norm(stem + ".weight", stem + ".bias" if stem + ".bias" in self.checkpoint else None, self.arch.centred)

    def linear(self, role: str, layer: int, sizes: Mapping[str, tuple[int, int]], **flags: Any) -> Linear:
        template = getattr(self.arch, role)
        fused = [other for other in sizes if getattr(self.arch, other) == template]
        start = sum(sizes[other][0] for other in fused[: fused.index(role)])
        total = sum(sizes[other][0] for other in fused)
        stem = self.prefix + template.format(layer=layer)
        stored = (total, sizes[role][1])
        self.expect(stem + ".weight", stored[::-1] if self.arch.transposed else stored)
        bias = stem + ".bias" if stem + ".bias" in self.checkpoint else None
        if bias is not None:
            self.expect(bias, (total,))
        rows = (start, start + sizes[role][0]) if len(fused) > 1 else None
        return Linear(stem + ".weight", bias, rows=rows, transposed=self.arch.transposed, **flags)

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self.checkpoint:
            raise BadInput(f"The checkpoint has no tensor {name!r}; expected one of shape {list(shape)} by its config.")
        if self.checkpoint.shape(name) != shape:
            found = list(self.checkpoint.shape(name))
            raise BadInput(f"The tensor {name!r} has shape {found}; expected {list(shape)} by the config.")
