"""A stack of blocks met in a checkpoint: its sizes, its maps and norms; `redteam.anatomy.walk` finds its sites."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import count
from typing import Any

from redteam.anatomy.architecture import Architecture, Shaped, named
from redteam.anatomy.linear import Linear, Norm, Rows
from redteam.anatomy.site import Site
from redteam.checkpoint.known import completed
from redteam.checkpoint.tensors import classes_of
from redteam.errors import BadInput

_FUSED = ("query", "key", "value", "output", "gate", "up", "down")  # the order in which fused projections follow
_IN_A_SHARD = ("query", "value", "key")  # the same in CodeGen's, which are as many as the machines that trained it


class Blocks:
    """An architecture met in a checkpoint.

    Attributes:
        prefix: What the checkpoint's names begin with.
        width: The model's.
        used: Names of all tensors that belong to the blocks found so far.
        reads, writes: The maps that read and write the residual stream.
        norms: The norms in the blocks.
        layer_scales: Numbers that multiply what is written, one for each dimension of the stream.
        output_norms: Those that stand on a block's output, before it is added to the stream.
        latents: The sites of the kind residual inside the blocks.

    Raises:
        BadInput: If the config lacks a number, or a tensor is missing or has another shape than the config says.
    """

    def __init__(self, architecture: Architecture, checkpoint: Shaped) -> None:
        self.arch, self.checkpoint = architecture, checkpoint
        prefix = architecture.prefix(checkpoint)
        if prefix is None:
            first = named(architecture.first.format(layer=0, expert=0), "weight")
            tried = " or ".join(repr(prefix + first) for prefix in architecture.prefixes)
            raise BadInput(
                f"The checkpoint has no tensor {tried}; expected the names that its model type is saved with."
            )
        self.prefix = prefix
        self.config: Mapping[str, Any] = checkpoint.config
        for key in architecture.config:
            inner = self.config.get(key)
            self.config = inner if isinstance(inner, Mapping) else self.config
        self.used: set[str] = set()
        self.reads: list[Linear] = []
        self.writes: list[Linear] = []
        self.norms: list[Norm] = []
        self.output_norms: list[Norm] = []
        self.latents: list[Site] = []
        self.layer_scales: list[Linear] = []
        self.layers = self.number(architecture.layers, self._counted())
        self.width = self.number(architecture.width, self._model_width())
        if architecture.latent:
            self.heads = self.number(architecture.heads)
        elif architecture.query:
            self._size_heads()
        self.gated = self.has(architecture.gate)
        self.experts = self._experts() if architecture.router else 0
        scaled = any(self.prefix + name.format(layer=0) in checkpoint for name in architecture.layer_scales)
        classes = classes_of(checkpoint.config)
        seen = any(part in name for part in architecture.exposed for name in classes)
        self.centred_writes = architecture.centred and not scaled and not seen

    def _size_heads(self) -> None:
        arch = self.arch
        if not arch.head_width:
            self.heads = self.number(arch.heads)
            self.n = self._columns(arch.output) // self.heads
        elif self.given(arch.heads) is None and self.given(arch.head_width) is not None:
            self.n = self.number(arch.head_width)
            self.heads = self.width // self.n
        else:
            self.heads = self.number(arch.heads)
            self.n = self.number(arch.head_width, self.width // self.heads)
        self.groups = self.number(arch.kv_heads, self.heads) if arch.kv_heads else self._groups()
        self._settle_heads(range(self.layers))

    def size_heads_of(self, layer: int) -> None:
        """Takes heads to be as wide and as many as they are in a layer, where the tensors alone tell (Gemma 4)."""
        if not self.arch.head_width and not self.arch.kv_heads:
            self.n = self._columns(self.arch.output, (layer,)) // self.heads
            self.groups = self._groups((layer,))
            self._settle_heads((layer,))

    def _settle_heads(self, layers: Iterable[int]) -> None:
        arch = self.arch
        if self.heads % self.groups:
            raise BadInput(
                f"The config has {self.heads} heads in {self.groups} groups; expected the same number in each."
            )
        self.normed_shape = self._somewhere(arch.query_norm, layers=layers) if arch.query_norm else ()
        self.normed = "none" if not self.normed_shape else "head" if self.normed_shape == (self.n,) else "all"
        nested = self.given("rope_parameters")
        shares = [self.given(key) for key in arch.rotary]
        shares += [nested.get(key) for key in arch.rotary] if isinstance(nested, Mapping) else []
        share = next((x for x in shares if x is not None), 1.0)
        share = share / self.n if isinstance(share, int) and share > 1 else share
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise BadInput(f"The config rotates a share of {share!r} of every head; expected a number in (0, 1].")
        self.turned = int(self.n * share) if arch.planes is not None and share < 1 else None

    def number(self, name: str, default: int = 0) -> int:
        """A positive whole number of the config."""
        value = self.given(name)
        value = default if value is None else value
        if not value and not self.checkpoint.config:
            raise BadInput(
                f"The checkpoint has no config, and {name} can't be told from its tensors; put the config.json that "
                "belongs to it beside the weights."
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(f"The config has {name} = {value or None!r}; expected a positive whole number.")
        return value

    def given(self, name: str) -> Any:
        """A value of the config, or of a list in it: `num_heads.0`."""
        name, _, place = name.partition(".")
        value = self.config.get(name)
        value = self.arch.defaults.get(name) if value is None else value
        return value[int(place)] if place and isinstance(value, list) and int(place) < len(value) else value

    def name(
        self, template: str | tuple[str, ...] | None, which: str = "weight", layer: int = 0, expert: int = 0
    ) -> str:
        assert template is not None
        if isinstance(template, tuple):
            there = (one for one in template if self.name(one, layer=layer) in self.checkpoint)
            template = next(there, template[0])
        return self.prefix + named(template.format(layer=layer, previous=layer - 1, expert=expert), which)

    def has(self, template: str | None, layer: int | None = None) -> bool:
        """Whether a layer has a map, or where a layer may lack it, any of them."""
        layers = range(self.layers if self.arch.sparse else 1) if layer is None else (layer,)
        return template is not None and any(self.name(template, layer=one) in self.checkpoint for one in layers)

    def _counted(self) -> int:
        """How many layers there are by the names of tensors."""
        root, _, _rest = (self.prefix + self.arch.first).partition("{layer}")
        numbers = (re.match(r"\d+", name.removeprefix(root)) for name in self.checkpoint if name.startswith(root))
        found = {int(number[0]) for number in numbers if number}
        if self.arch.sparse:
            return max(found, default=-1) + 1
        return next(n for n in count() if self.name(self.arch.first, layer=n) not in self.checkpoint)

    def _somewhere(
        self, template: str | None, which: str = "weight", layers: Iterable[int] | None = None
    ) -> tuple[int, ...]:
        """The shape of a map in the first of some layers, all by default, that has it."""
        names = (self.name(template, which, layer) for layer in (range(self.layers) if layers is None else layers))
        return next((self.checkpoint.shape(name) for name in names if name in self.checkpoint), ())

    def _columns(self, template: str | None, layers: Iterable[int] | None = None) -> int:
        shape = self._somewhere(template, layers=layers)
        return shape[0 if self.arch.transposed else 1] if len(shape) == 2 else 0

    def _model_width(self) -> int:
        if self.arch.query is None and self.arch.packed is None:
            return self._columns(self.arch.first.replace("{expert}", "0"))
        read = self._columns(self.arch.latent or self.arch.query or self.arch.router)
        return read // 2 if self.arch.beside_embeddings else read

    @property
    def read_width(self) -> int:
        """Of what attention reads."""
        return 2 * self.width if self.arch.beside_embeddings else self.width

    def _groups(self, layers: Iterable[int] | None = None) -> int:
        """Of keys and values, by the tensors."""
        arch = self.arch
        shape = self._somewhere(arch.key, layers=layers)
        rows = (shape[1 if arch.transposed else 0] if len(shape) == 2 else 0) // self.n
        if arch.key == arch.query:
            rows = (rows - self.heads) // (2 if arch.value == arch.key else 1)
        elif arch.key == arch.value:
            rows //= 2
        return max(rows, 1)

    def _experts(self) -> int:
        keys = self.arch.experts
        if not keys:
            return (self._somewhere(self.arch.router) or (0,))[0]
        return self.number(next((key for key in keys if self.given(key) is not None), keys[0]))

    def neurons_of(self, layer: int) -> int:
        """Of a layer's MLP: the config's number, or where it has none or one for each layer, the tensor's."""
        shape = self.shape(self.name(self.arch.down, layer=layer))
        found = shape[0 if self.arch.transposed else -1]
        several = self.arch.sparse or isinstance(self.given(self.arch.neurons), list)
        return found if several else self.number(self.arch.neurons, found)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; raises BadInput if the checkpoint has no such tensor."""
        if name not in self.checkpoint:
            raise BadInput(
                f"The checkpoint has no tensor {name!r}; expected the names that its model type is saved with."
            )
        return self.checkpoint.shape(name)

    def has_mlp(self, layer: int) -> bool:
        """Whether a layer has an MLP, of the form that most have."""
        if self.arch.router is not None:
            return self.has(self.arch.router, layer)
        return self.name(self.arch.down, layer=layer) in self.checkpoint

    def vectors(self, templates: Iterable[str], layer: int) -> list[Linear]:
        """Tensors whose whole names these are, those that are there."""
        names = [self.prefix + template.format(layer=layer) for template in templates]
        found = [name for name in names if name in self.checkpoint]
        self.used |= set(found)
        return [Linear(name, None) for name in found]

    def packed_names(self, template: str | None, layer: int) -> tuple[str, str]:
        """Names of the weight and the bias of all experts of a layer, with or without a module of their own."""
        assert template is not None
        bare = self.prefix + template.format(layer=layer)
        if bare in self.checkpoint:
            return bare, f"{bare}_bias"
        return f"{bare}.weight", f"{bare}.bias"

    @property
    def clipped(self) -> bool:
        """Whether the config says that queries, keys and values are cut off at a number."""
        inner = self.config.get("attn_config")
        configs = (self.config, inner if isinstance(inner, Mapping) else {})
        return any(config.get("clip_qkv") is not None for config in configs)

    @property
    def first_norm(self) -> str | None:
        """What the first layer's attention reads, where it has the model's width: a map may stand between."""
        template = self.arch.first_norm
        name = self.name(template)
        if name in self.checkpoint and self.checkpoint.shape(name) != (self.width,):
            self.used |= {name, self.name(template, "bias")}
            return None
        return template

    def unturned(self, layer: int) -> bool:
        """Whether the config says that a layer goes without the rotary embedding."""
        return self.arch.unturned is not None and self._told[layer : layer + 1] == [self.arch.unturned[1]]

    @cached_property
    def _told(self) -> list[Any]:
        """A value for each layer under the key that tells them apart; transformers' where the config lists none."""
        assert self.arch.unturned is not None, "asked where layers differ"
        key = self.arch.unturned[0]
        layers = self.config.get(key)
        if not isinstance(layers, list) or len(layers) < self.layers:
            layers = completed(self.config).get(key)
        return layers if isinstance(layers, list) else []

    def lends(self, layer: int) -> bool:
        """Whether the config says that later layers read this one's keys and values: the last ones of its kind."""
        count, kinds = self.given("num_kv_shared_layers"), self.given("layer_types")
        if not isinstance(count, int) or count < 1:
            return False
        own = kinds[: self.layers - count] if isinstance(kinds, list) else []
        return layer >= len(own) or own[layer] not in own[layer + 1 :]

    def attends(self, layer: int) -> bool:
        """Whether a layer has an attention of its own: always, where layers may not lack it."""
        arch = self.arch
        templates = (arch.latent or arch.query, arch.key, arch.value, arch.output)
        return arch.query is not None and (not arch.sparse or all(self.has(one, layer) for one in templates))

    def further(self, templates: Iterable[str], layer: int, norm: Norm | None) -> list[Linear]:
        """Maps that read a norm and have no site of their own, those that are there."""
        return [self.whole(template, layer, norm) for template in templates if self.has(template, layer)]

    def whole(self, template: str | None, layer: int, norm: Norm | None = None) -> Linear:
        """A map that is all of a tensor, with its bias where there is one; raises BadInput as `shape`."""
        weight, bias = (self.name(template, which, layer) for which in ("weight", "bias"))
        self.shape(weight)
        self.used |= {weight, bias}
        return Linear(weight, bias if bias in self.checkpoint else None, norm)

    def label(self, part: str) -> str:
        """A site's part, behind the stack's."""
        return "/".join(filter(None, (self.arch.part, part)))

    @property
    def tied(self) -> bool:
        """Whether the config says that a language model's head is the embedding."""
        given = (config.get("tie_word_embeddings") for config in (self.config, self.checkpoint.config))
        return bool(next((value for value in given if value is not None), self.arch.tied))

    def norm(self, template: str | tuple[str, ...] | None, layer: int, width: int | None = None) -> Norm | None:
        """The norm of a template, None where there is no template, or no norm in a layer that may lack it.

        Of the model's width, where it is not of another.
        """
        if template is None:
            return None
        weight, bias = (self.name(template, which, layer) for which in ("weight", "bias"))
        if self.arch.sparse and weight not in self.checkpoint:
            return None
        self.expect(weight, (width or self.width,))
        self.used |= {weight, bias}
        norm = Norm(weight, bias if bias in self.checkpoint else None, self.arch.centred, self.arch.offset)
        if norm not in self.norms:
            self.norms.append(norm)
        return norm

    def linear(
        self, role: str, layer: int, sizes: Mapping[str, tuple[int, int]], expert: int = 0, **flags: Any
    ) -> Linear:
        """The projection of a role, with the rows that are its own where it is fused with others."""
        template = self.template(role)
        fused = [other for other in _FUSED if other in sizes and self.template(other) == template]
        total = sum(sizes[other][0] for other in fused) or sizes[role][0]
        weight, bias = (self.name(template, which, layer, expert) for which in ("weight", "bias"))
        apart = dict(self.arch.biases).get(role)
        bias = bias if apart is None else self.prefix + apart.format(layer=layer)
        doubled = 2 if role == "query" and self.arch.gated_output else 1
        total *= doubled
        stored = (total, sizes[role][1])
        self.expect(weight, stored[::-1] if self.arch.transposed else stored)
        if bias in self.checkpoint:
            self.expect(bias, (total if apart is None else sizes[role][0],))
        self.used |= {weight, bias}
        rows = self._rows(role, fused, sizes) if len(fused) > 1 else None
        if doubled > 1:
            rows = Rows(0, total // 2, self.n, 2 * self.n)
        found = bias if bias in self.checkpoint else None
        return Linear(weight, found, rows=rows, transposed=self.arch.transposed, bias_apart=apart is not None, **flags)

    def _rows(self, role: str, fused: list[str], sizes: Mapping[str, tuple[int, int]]) -> Rows:
        if self.arch.shards and len(fused) == len(_IN_A_SHARD):
            block = sizes[role][0] // self.arch.shards
            start = block * _IN_A_SHARD.index(role)
            return Rows(start, sizes[role][0], block, block * len(fused))
        if self.arch.interleaved:  # group by group, where several queries share a key (Falcon 40B)
            shares = [sizes[other][0] // self.groups for other in fused]
            place = fused.index(role)
            return Rows(sum(shares[:place]), sizes[role][0], shares[place], sum(shares))
        return Rows(sum(sizes[other][0] for other in fused[: fused.index(role)]), sizes[role][0])

    def template(self, role: str) -> str:
        if role == "up" and self.gated and self.arch.gated_up is not None:
            return self.arch.gated_up
        template: str = getattr(self.arch, role)
        return template

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises BadInput unless the checkpoint has a tensor of that shape."""
        if name not in self.checkpoint:
            raise BadInput(f"The checkpoint has no tensor {name!r}; expected one of shape {list(shape)} by its config.")
        if self.checkpoint.shape(name) != shape:
            found = list(self.checkpoint.shape(name))
            raise BadInput(f"The tensor {name!r} has shape {found}; expected {list(shape)} by the config.")
