"""A stack of blocks met in a checkpoint: the sites that follow from its description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any

from redteam.anatomy.architecture import Architecture, Shaped, named
from redteam.anatomy.legality import subgroups
from redteam.anatomy.linear import Gathered, Linear, Norm, Rows
from redteam.anatomy.scales import gain_of, scale_site
from redteam.anatomy.site import Side, Site
from redteam.errors import BadInput

_FUSED = ("query", "key", "value", "output", "gate", "up", "down")  # the order in which fused projections follow


class Blocks:
    """An architecture met in a checkpoint.

    Attributes:
        prefix: What the checkpoint's names begin with.
        width: The model's.
        used: Names of all tensors that belong to the blocks found so far.
        reads, writes: The maps that read and write the residual stream.
        norms: The norms in the blocks.
        output_norms: Those that stand on a block's output, before it is added to the stream.

    Raises:
        BadInput: If the config lacks a number, or a tensor is missing or has another shape than the config says.
    """

    def __init__(self, architecture: Architecture, checkpoint: Shaped) -> None:
        self.arch, self.checkpoint = architecture, checkpoint
        prefix = architecture.prefix(checkpoint)
        if prefix is None:
            first = named(architecture.query.format(layer=0), "weight")
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
        self.layers = self.number(architecture.layers, self._counted())
        self.width = self.number(architecture.width, self._model_width())
        self._size_heads()
        self.gated = self._has(architecture.gate)
        self.neurons = self.number(architecture.neurons, self._down()[1]) if architecture.down else 0
        told = next((key for key in architecture.experts if self._given(key) is not None), architecture.experts[0])
        self.experts = self.number(told) if architecture.router else 0
        scaled = architecture.layer_scale is not None and self.prefix + architecture.layer_scale in checkpoint
        self.centred_writes = architecture.centred and not scaled

    def _size_heads(self) -> None:
        arch = self.arch
        if self._given(arch.heads) is None and self._given(arch.head_width) is not None:
            self.n = self.number(arch.head_width)
            self.heads = self.width // self.n
        else:
            self.heads = self.number(arch.heads)
            self.n = self.number(arch.head_width, self.width // self.heads)
        self.groups = self.number(arch.kv_heads, self.heads)
        if self.heads % self.groups:
            raise BadInput(
                f"The config has {self.heads} heads in {self.groups} groups; expected the same number in each."
            )
        shared = self._has(arch.query_norm) and self.checkpoint.shape(self._name(arch.query_norm)) == (self.n,)
        self.normed = "none" if not self._has(arch.query_norm) else "head" if shared else "all"
        nested = self._given("rope_parameters")
        shares = [self._given(key) for key in arch.rotary]
        shares += [nested.get(key) for key in arch.rotary] if isinstance(nested, Mapping) else []
        share = next((x for x in shares if x is not None), 1.0)
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise BadInput(f"The config rotates a share of {share!r} of every head; expected a number in (0, 1].")
        self.turned = int(self.n * share) if arch.planes is not None and share < 1 else None

    def number(self, name: str, default: int = 0) -> int:
        """A positive whole number of the config."""
        value = self._given(name)
        value = default if value is None else value
        if not value and not self.checkpoint.config:
            raise BadInput(
                f"The checkpoint has no config, and {name} can't be told from its tensors; put the config.json that "
                "belongs to it beside the weights."
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(f"The config has {name} = {value or None!r}; expected a positive whole number.")
        return value

    def _given(self, name: str) -> Any:
        value = self.config.get(name)
        return self.arch.defaults.get(name) if value is None else value

    def _name(self, template: str | None, which: str = "weight", layer: int = 0, expert: int = 0) -> str:
        assert template is not None
        return self.prefix + named(template.format(layer=layer, previous=layer - 1, expert=expert), which)

    def _has(self, template: str | None) -> bool:
        return template is not None and self._name(template) in self.checkpoint

    def _counted(self) -> int:
        """How many layers have a query, for checkpoints without a config."""
        return next(n for n in count() if self._name(self.arch.query, layer=n) not in self.checkpoint)

    def _model_width(self) -> int:
        shape = self.checkpoint.shape(self._name(self.arch.query))
        return shape[0 if self.arch.transposed else 1] if len(shape) == 2 else 0

    def _down(self) -> tuple[int, int]:
        name = self._name(self.arch.down)
        if name not in self.checkpoint:
            raise BadInput(
                f"The checkpoint has no tensor {name!r}; expected the names that its model type is saved with."
            )
        shape = self.checkpoint.shape(name)
        return (shape[1], shape[0]) if self.arch.transposed else (shape[0], shape[1])

    def places(self) -> Iterator[Site]:
        """All sites inside the blocks."""
        for layer in range(self.layers):
            read, written = len(self.reads), len(self.writes)
            yield from self._attention(layer)
            attention, outputs = self.reads[read:], self.writes[written:]
            read, written = len(self.reads), len(self.writes)
            if self.arch.down is not None:
                yield from self._mlp(layer)
            mlp, downs = self.reads[read:], self.writes[written:]
            yield from self._norms(layer, attention, mlp)
            for template in self.arch.post_norms:
                self._post_norm(template, layer)
            yield from self._scales(layer, {"attention": (attention, outputs), "mlp": (mlp, downs)})

    def _post_norm(self, template: str, layer: int) -> None:
        norm = self.norm(template, layer)
        if norm is not None and not self.arch.post_norm:
            self.output_norms.append(norm)

    def _scales(self, layer: int, maps: Mapping[str, tuple[list[Linear], list[Linear]]]) -> Iterator[Site]:
        """Factors that norms inside a layer take out, given what each part of the layer reads and writes."""
        for part, (reads, writes) in maps.items():
            label = "/".join(filter(None, (self.arch.part, part)))
            if self.arch.post_norm and reads and reads[0].norm is not None:
                yield scale_site(layer, label, self.width, [gain_of(reads[0].norm)], writes, reads)
            elif self.arch.post_norms and not self.arch.post_norm and writes:
                yield scale_site(layer, f"{label}-output", self.width, writes)

    @property
    def tied(self) -> bool:
        """Whether the config says that a language model's head is the embedding."""
        given = (config.get("tie_word_embeddings") for config in (self.config, self.checkpoint.config))
        return bool(next((value for value in given if value is not None), self.arch.tied))

    def last_norm(self) -> Iterator[Site]:
        """The gain of the last norm, where the description says what alone reads it."""
        arch = self.arch
        if self.tied or not arch.final_norm or not arch.readout:
            return
        weight, bias = named(arch.readout, "weight"), named(arch.readout, "bias")
        norm = self.norm(arch.final_norm, 0) if weight in self.checkpoint else None
        if norm is not None:
            yield from self.gain_read_by([Linear(weight, bias if bias in self.checkpoint else None, norm)], "final")

    def memory(self) -> list[Linear]:
        """The maps that read another stack's output."""
        norm = self.arch.memory_norm and self.norm(self.arch.memory_norm, 0)
        return [linear for linear in self.reads if norm and linear.norm == norm]

    def gain_read_by(self, readers: list[Linear], part: str) -> Iterator[Site]:
        """The gain of a norm behind the last layer, given the maps that read it, if such gains are free here."""
        if readers and readers[0].norm is not None and "norm" in self.arch.legal:
            yield self._gain(readers[0].norm, readers, self.layers, part)

    def _attention(self, layer: int) -> Iterator[Site]:
        arch, n, groups, share = self.arch, self.n, self.groups, self.heads // self.groups
        norm = self.norm(arch.first_norm if layer == 0 and arch.first_norm else arch.attention_norm, layer)
        memory = norm if arch.memory_norm is None else self.norm(arch.memory_norm, layer)
        queries, keys, model = self.heads * n, groups * n, self.width
        sizes = {"query": (queries, model), "key": (keys, model), "value": (keys, model), "output": (model, queries)}
        output = self.linear("output", layer, sizes, writes_centred=self.centred_writes)
        query = self.linear("query", layer, sizes, norm=norm)
        free = arch.key_bias_free and self.normed == "none"
        bound = (n, self.turned) if free and self.turned is not None else None
        free = free and arch.planes is None
        key = self.linear("key", layer, sizes, norm=memory, bias_free=free, bias_bound=bound)
        value = self.linear("value", layer, sizes, norm=memory, bias_free=output.bias is not None)
        self.reads += [query, key, value]
        self.writes.append(output)

        legal = {kind: subgroups(largest) for kind, largest in arch.legal.items()}
        if arch.planes is not None:
            legal["qk"] = subgroups("planar" if self.turned is None else "partial-planar")
        gains = self._gains(layer) if self.normed != "none" else ()
        if gains:
            legal["qk"] = subgroups("plane-signs")
        if self.normed != "none" and arch.centred:  # a LayerNorm of queries and keys sees signs, and its gains move
            legal = {kind: group for kind, group in legal.items() if kind not in ("qk", "heads", "queries")}
        if self.normed != "none":
            yield from self._head_scales(layer, query, key)
        site = partial(Site, layer=layer, part=arch.part)
        rotary = partial(site, planes=arch.planes, turned=self.turned)
        if "qk" in legal:
            yield rotary("qk", heads=groups, width=n, left=Side(query, share), right=Side(key), legal=legal["qk"])
        if "vo" in legal:
            columns = Side(output, share, columns=True)
            yield site("vo", heads=groups, width=n, left=Side(value), right=columns, legal=legal["vo"])
        if gains and "qk" in legal:
            heads, shares = (1, 1) if self.normed == "head" else (groups, share)
            left, right = Side(gains[0], shares), Side(gains[1])
            yield rotary("qk-norm", heads=heads, width=n, left=left, right=right, legal=subgroups("plane-scaling"))
        moving = gains if self.normed == "all" else ()
        if "heads" in legal:
            left, right = Side(query, unit=share * n), Side(output, columns=True, unit=share * n)
            also = [Side(key, unit=n), Side(value, unit=n)]
            also += [Side(gain, unit=unit) for gain, unit in zip(moving, (share * n, n), strict=False)]
            all_heads = partial(site, heads=1, width=groups, legal=legal["heads"])
            yield all_heads("heads", left=left, right=right, left_too=tuple(also))
        if {"heads", "queries"} <= legal.keys() and share > 1:
            left, right = Side(query, unit=n), Side(output, columns=True, unit=n)
            also = [Side(gain, unit=n) for gain in moving[:1]]
            of_group = partial(site, heads=groups, width=share, legal=legal["queries"])
            yield of_group("queries", left=left, right=right, left_too=tuple(also))

    def _head_scales(self, layer: int, query: Linear, key: Linear) -> Iterator[Site]:
        """Factors that the norms of queries and keys take out: of each head, or of all that one norm spans."""
        by_head = self.normed == "head" or len(self.checkpoint.shape(self._name(self.arch.query_norm))) > 1
        for part, linear, number in (("query", query, self.heads), ("key", key, self.groups)):
            heads, rows = (number, self.n) if by_head else (1, number * self.n)
            label = "/".join(filter(None, (self.arch.part, part)))
            yield scale_site(layer, label, rows, [linear], heads=heads)

    def _mlp(self, layer: int) -> Iterator[Site]:
        arch, model = self.arch, self.width
        norm = self.norm(arch.mlp_norm, layer)
        sizes = {"gate": (self.neurons, model)} if self.gated else {}
        sizes |= {"up": (self.neurons, model), "down": (model, self.neurons)}
        legal = self._mlp_legal()
        ups: list[Linear] = []
        downs: list[Linear] = []
        gates: list[Linear] = []
        for expert in range(max(self.experts, 1)):
            up = self.linear("up", layer, sizes, expert, norm=norm)
            down = self.linear("down", layer, sizes, expert, writes_centred=self.centred_writes)
            gate = self.linear("gate", layer, sizes, expert, norm=norm) if self.gated else None
            ups.append(up)
            downs.append(down)
            gates += [gate] if gate is not None else []
            carried = () if gate is None else (Side(gate),)
            part = "/".join(filter(None, (arch.part, f"expert-{expert}" if self.experts else "")))
            if legal:
                sides = Side(up), Side(down, columns=True)
                yield Site("mlp", layer, 1, self.neurons, *sides, legal, carried=carried, part=part)
        self.reads += ups + gates
        self.writes += downs
        if self.experts:
            router = self.linear("router", layer, {"router": (self.experts, model)}, norm=norm)
            self.reads.append(router)
            also = [Side(Gathered(tuple(maps)), unit=self.neurons) for maps in (ups, gates) if maps]
            down_side = Side(Gathered(tuple(downs)), unit=model)
            sides = Side(router), down_side
            order = subgroups("permutation")
            yield Site("experts", layer, 1, self.experts, *sides, order, left_too=tuple(also), part=arch.part)

    def _mlp_legal(self) -> frozenset[str]:
        largest = self.arch.legal.get("mlp")
        if largest == "permutation":
            names = [self._given(key) for key in self.arch.activation]
            relu = next((name for name in names if name is not None), None) == "relu"
            largest = "scaled-permutation" if self.gated else "positive-scaled-permutation" if relu else largest
        return subgroups(largest) if largest else frozenset()

    def _norms(self, layer: int, attention: list[Linear], mlp: list[Linear]) -> Iterator[Site]:
        """The gains of a block, given the maps that read what they scale."""
        if "norm" not in self.arch.legal:
            return
        if self.arch.memory_norm is not None:
            attention = attention[:1]
        readers = {"attention": attention, "mlp": mlp}
        if mlp and attention[0].norm == mlp[0].norm:
            readers = {"block": [*attention, *mlp]}
        for part, linears in readers.items():
            if linears and linears[0].norm is not None:
                yield self._gain(linears[0].norm, linears, layer, part)

    def _gain(self, norm: Norm, readers: list[Linear], layer: int, part: str) -> Site:
        columns, *others = (Side(linear, columns=True) for linear in readers)
        gain = Side(Linear(norm.weight, norm.bias, offset=norm.offset))
        label = "/".join(filter(None, (self.arch.part, part)))
        legal = subgroups(self.arch.legal["norm"])
        return Site("norm", layer, 1, self.width, gain, columns, legal, (), tuple(others), part=label)

    def _gains(self, layer: int) -> tuple[Linear, ...]:
        """Of the norms of queries and keys, unless these are LayerNorms, whose gains are no site."""
        names = [self._name(template, layer=layer) for template in (self.arch.query_norm, self.arch.key_norm)]
        self.used |= set(names)
        if self.arch.centred:
            return ()
        sizes = (self.n, self.n) if self.normed == "head" else (self.heads * self.n, self.groups * self.n)
        for name, size in zip(names, sizes, strict=True):
            self.expect(name, (size,))
        return tuple(Linear(name, None, offset=self.arch.offset) for name in names)

    def norm(self, template: str | None, layer: int) -> Norm | None:
        """The norm of a template, None where there is no template."""
        if template is None:
            return None
        weight, bias = (self._name(template, which, layer) for which in ("weight", "bias"))
        self.expect(weight, (self.width,))
        self.used |= {weight, bias}
        norm = Norm(weight, bias if bias in self.checkpoint else None, self.arch.centred, self.arch.offset)
        if norm not in self.norms:
            self.norms.append(norm)
        return norm

    def linear(
        self, role: str, layer: int, sizes: Mapping[str, tuple[int, int]], expert: int = 0, **flags: Any
    ) -> Linear:
        """The projection of a role, with the rows that are its own where it is fused with others."""
        template = self._template(role)
        fused = [other for other in _FUSED if other in sizes and self._template(other) == template]
        total = sum(sizes[other][0] for other in fused) or sizes[role][0]
        weight, bias = (self._name(template, which, layer, expert) for which in ("weight", "bias"))
        stored = (total, sizes[role][1])
        self.expect(weight, stored[::-1] if self.arch.transposed else stored)
        if bias in self.checkpoint:
            self.expect(bias, (total,))
        self.used |= {weight, bias}
        rows = self._rows(role, fused, sizes) if len(fused) > 1 else None
        found = bias if bias in self.checkpoint else None
        return Linear(weight, found, rows=rows, transposed=self.arch.transposed, **flags)

    def _rows(self, role: str, fused: list[str], sizes: Mapping[str, tuple[int, int]]) -> Rows:
        if self.arch.interleaved:
            return Rows(self.n * fused.index(role), sizes[role][0], self.n, self.n * len(fused))
        return Rows(sum(sizes[other][0] for other in fused[: fused.index(role)]), sizes[role][0])

    def _template(self, role: str) -> str:
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
