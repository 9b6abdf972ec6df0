"""Architectures as data: name templates and flags, and the sites that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from redteam.anatomy.legality import within
from redteam.anatomy.linear import Linear, Norm
from redteam.anatomy.site import Side, Site
from redteam.errors import BadInput, UnknownName

Kind = Literal["qk", "vo", "mlp"]
Sites = tuple[Kind, ...]
"""The type of a plugin's setting that names kinds of sites."""
KINDS: Sites = get_args(Kind)
"""The kinds of sites."""


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
        """The sites of some kinds, ordered by layer.

        Raises:
            UnknownName: If there is no such kind.
        """
        wanted = set(kinds)
        for kind in sorted(wanted - set(KINDS)):
            raise UnknownName.among("kind of site", kind, KINDS)
        return tuple(site for site in self.places if site.kind in wanted)


@dataclass(frozen=True)
class Architecture:
    """What the checkpoints of a model type have in common. Templates take `{layer}`; `.weight` and `.bias` are added.

    Projections with the same template are fused: their rows follow one another, query, key, value. Whether a bias is
    there is read off the checkpoint.

    Attributes:
        query, key, value, output, up, down: Templates of the projections.
        attention_norm, mlp_norm: Templates of the norms that the projections read.
        prefixes: What may stand before every template, tried in this order.
        layers, width, heads, neurons: Keys of the config.
        kv_heads: Key of the config; as many as there are heads where the config lacks it.
        head_width: Key of the config; width / heads where the config lacks it.
        centred: Whether norms are LayerNorms and only they read the stream (the additive freedoms of LayerNorm).
        key_bias_free: Whether softmax ignores the key bias: no rotary embedding and no norm of queries and keys.
        transposed: Whether weights are stored [in, out].
        legal: The largest group that keeps the function, by kind of site.
    """

    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    attention_norm: str
    mlp_norm: str
    prefixes: tuple[str, ...] = ("",)
    layers: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    head_width: str = "head_dim"
    neurons: str = "intermediate_size"
    centred: bool = True
    key_bias_free: bool = True
    transposed: bool = False
    legal: Mapping[str, str] = field(
        default_factory=lambda: {"qk": "general-linear", "vo": "general-linear", "mlp": "permutation"}
    )

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

    def layer(self, layer: int) -> tuple[Site, Site, Site]:
        arch, n, share = self.arch, self.n, self.heads // self.groups
        reads = self.norm(arch.attention_norm, layer)
        queries, keys, model = self.heads * n, self.groups * n, self.width
        sizes = {"query": (queries, model), "key": (keys, model), "value": (keys, model), "output": (model, queries)}
        sizes |= {"up": (self.neurons, model), "down": (model, self.neurons)}
        output = self.linear("output", layer, sizes, writes_centred=arch.centred)
        query = self.linear("query", layer, sizes, norm=reads)
        key = self.linear("key", layer, sizes, norm=reads, bias_free=arch.key_bias_free)
        value = self.linear("value", layer, sizes, norm=reads, bias_free=output.bias is not None)
        up = self.linear("up", layer, sizes, norm=self.norm(arch.mlp_norm, layer))
        down = self.linear("down", layer, sizes, writes_centred=arch.centred)
        return (
            Site("qk", layer, self.groups, n, Side(query, share), Side(key), self.legal("qk")),
            Site("vo", layer, self.groups, n, Side(value), Side(output, share, columns=True), self.legal("vo")),
            Site("mlp", layer, 1, self.neurons, Side(up), Side(down, columns=True), self.legal("mlp")),
        )

    def norm(self, template: str, layer: int) -> Norm:
        stem = self.prefix + template.format(layer=layer)
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

    def legal(self, kind: str) -> frozenset[str]:
        return within(self.arch.legal[kind])
