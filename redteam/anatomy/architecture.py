"""Architectures as data: name templates, keys of the config and flags. `redteam.anatomy.blocks` makes sites of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import torch

from redteam.anatomy.legality import Layout
from redteam.anatomy.site import Site
from redteam.checkpoint.configs import ACTIVATIONS
from redteam.errors import UnknownName

Kind = Literal["qk", "vo", "mlp", "heads", "queries", "norm", "qk-norm", "experts", "residual", "norm-scale"]
Sites = tuple[Kind, ...]
"""The type of a plugin's setting that names kinds of sites."""
KINDS: Sites = ("qk", "vo", "mlp")
"""The kinds of sites taken by default: pairs of maps, no two of which share a row or column."""
KINDS_OF_SITES: Sites = get_args(Kind)
"""All of them."""
ORDER: Sites = ("residual", "experts", "heads", "queries", "norm-scale", "qk", "vo", "mlp", "qk-norm", "norm")
"""All of them in the order in which they are fitted: what is recognised in any basis first, and gains last, since a
norm's columns can be compared only when the heads and neurons that read it are in order."""


class Shaped(Protocol):
    """What is needed of a checkpoint to find its sites: tensors are read for the residual stream alone."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The parsed `config.json`."""

    def shape(self, name: str, /) -> tuple[int, ...]:
        """The shape of a tensor."""

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class Anatomy:
    """Where the sites of one checkpoint are.

    Attributes:
        inner: All but those of residual streams, layer by layer.
        streams: Gives those of residual streams, which takes reading norms' gains.
    """

    inner: tuple[Site, ...]
    streams: Callable[[], tuple[Site, ...]] = tuple

    @cached_property
    def places(self) -> tuple[Site, ...]:
        """All of them, those of residual streams last."""
        return (*self.inner, *self.streams())

    def sites(self, kinds: Iterable[str] = KINDS) -> tuple[Site, ...]:
        """The sites of some kinds, ordered by layer; none of a kind that the architecture does not have.

        Raises:
            UnknownName: If there is no such kind.
        """
        wanted = set(kinds)
        for kind in sorted(wanted - set(KINDS_OF_SITES)):
            raise UnknownName.among("kind of site", kind, KINDS_OF_SITES)
        places = self.places if "residual" in wanted else self.inner
        return tuple(site for site in places if site.kind in wanted)


class ArchitectureLike(Protocol):
    """What stands for a model type and finds its sites itself: `Network`, or a class of a package's own."""

    def anatomy(self, checkpoint: Shaped, /) -> Anatomy:
        """Finds the sites of a checkpoint."""

    def recognises(self, checkpoint: Shaped, /) -> int:
        """How many of the checkpoint's tensors it knows by name; 0 if the checkpoint is of another model type."""


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
class Stream:
    """What of a network outside its blocks touches the residual stream; names that a checkpoint lacks go for nothing.

    `{prefix}` stands for what the checkpoint's names begin with, `{layer}` for each of the blocks. A checkpoint that
    holds any tensor which is named neither here nor in a block has no site of the kind residual, since nobody can tell
    what would have to follow it.

    Attributes:
        embeddings: Tensors whose last dimension is the stream's.
        writes: Maps whose output is added to the stream, weight and bias.
        norms: Norms outside the blocks, gain and shift.
        heads: Maps that read the stream.
        projections: Tensors, [width, out], that do.
        entry_norm: The norm that embeddings go through before the first block, where it writes the stream anew.
        tied_classes: Parts of the names of classes whose last map is the embedding, where the config ties the two.
        vectors: Tensors of the stream's width that are added to it.
        others: Names of tensors that have nothing to do with the stream; `*` stands for anything.
        scaled: Whether it has sites of the kind norm-scale.
    """

    embeddings: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    projections: tuple[str, ...] = ()
    entry_norm: str | None = None
    tied_classes: tuple[str, ...] = ("LMHead", "CausalLM", "ConditionalGeneration")
    vectors: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    scaled: bool = True


@dataclass(frozen=True)
class Architecture:
    """What the checkpoints of a model type have in common: a stack of blocks.

    Templates take `{layer}`, those of norms also `{previous}` (the layer before), those of a mixture's experts also
    `{expert}`. To a template `.weight` and `.bias` are added, without the dot where it ends in an underscore.
    Projections with the same template are fused. Whether a bias, a gate or a norm of queries and keys is there is read
    off the checkpoint.

    Attributes:
        query, key, value, output: Templates of the attention's projections; a stack without attention has none.
        up, down: Templates of the MLP's; None where the block has none.
        gate: Template of the MLP's gate; the MLP is gated where the checkpoint has it.
        gated_up: Template of `up` where there is a gate, if that is another.
        router: Template of the map that chooses among experts; then `gate`, `up` and `down` are those of one expert.
        packed: How the experts of a layer lie in one tensor, if they do: [expert, out, in] or [expert, in, out].
        alternating: Whether gate and up take turns in such a tensor, row by row.
        further: Up, gate (None where there is none) and down of more MLPs that a block may have beside it or in its
            place: shared experts, a mixture's dense layers.
        attention_reads, mlp_reads: Further maps that read the norm of either part, where they are there; also in layers
            that have a state space in the place of attention.
        attention_writes: Further maps beside attention, or in its place, that write to the stream.
        with_heads, with_neurons, with_experts: Tensors that have a number, a row or a column for each query head, for
            each neuron of the MLP, or for each expert.
        biases: Names of biases that lie apart from their maps, each behind the role of the map.
        ordered_experts: Whether experts may not change places.
        latent: Template of the map to the latent that keys and values are raised from, with the rotary part of all
            keys behind it; then `key` and `value` are one map that reads the latent's norm, head by head.
        latent_norm: Template of that norm.
        latent_query, latent_query_norm: Those of the queries, where these have a latent too.
        raised_query: Template of `query` where they have, if that is another.
        latent_reads: Further maps that read the norm of the queries' latent.
        gated_output: Whether each query head is followed, in its projection, by a gate on what the head puts out.
        beside_embeddings: Whether attention, and the norm that it reads, takes the embeddings beside the stream, twice
            the model's width (Zamba); then there are no sites of the kind residual.
        adapters: Template of a map that several layers share, and of both maps of an adapter to it, one that reads and
            one that adds to what the map gives; they take `{use}`, which counts the layers that share it.
        clamped: Whether neurons allow no scales, whatever their gate or activation is.
        sparse: Whether a layer may lack its attention or its MLP.
        attention_norm, mlp_norm: Templates of the norms that the projections read, None if they read the stream itself;
            of several, the first that is there.
        first_norm: What the first layer's attention reads in place of `attention_norm`, where that is another.
        memory_norm: The norm that keys and values read where they attend to another stack's output.
        post_norms: Templates of norms inside a block that projections write to.
        post_norm: Whether norms stand after the addition, so that what they write is the stream (BERT).
        final_norm, readout: Templates of the last norm and of the map that alone reads it, unless it is the embedding.
        tied: Whether it is the embedding where the config does not say so.
        query_norm, key_norm: Templates of the norms of queries and keys.
        bare_norms: Whether these have norms without gains, where a rotary embedding turns them.
        layer_scales: Tensors of the model's width that multiply what a block writes, all of them; where they are there,
            writes are not centred.
        prefixes: What may stand before every template, tried in this order.
        config: Keys that lead to this stack's part of the config; a level that is not there is passed over.
        part: Tells the stacks of a network apart in labels.
        layers, width, heads, neurons: Keys of the config; all but heads may be empty, and the tensors tell them then.
        experts: Keys of the config that may hold their number; none of them, and the router tells it.
        kv_heads: Key of the config; as many as there are heads where the config lacks it; empty as above.
        head_width: Key of the config; width / heads where the config lacks it; empty as above.
        fixed_head_width: Whether the network takes width / heads, whatever the config says.
        activation: Keys of the config that may name the MLP's activation.
        defaults: Numbers that the config may leave out.
        centred: Whether norms are LayerNorms, and what is written is read by LayerNorms only: blocks with the norm
            before (pre-norm), or straight after the addition (post-norm).
        offset: What norms add to their gain.
        key_bias_free: Whether softmax ignores the key bias: no rotary embedding and no norm of queries and keys.
        value_bias_free: Whether the output's bias can take up a value bias: attention sums to one, so no sinks.
        exposed: Parts of the names of classes that read the stream without a norm or give it out; then nothing that is
            written is centred.
        planes: Layout of the rotary planes, if queries and keys are rotated by position. Then qk allows planar gauges
            of that layout and nothing else, and softmax does not ignore the key bias.
        unturned: Key of the config that holds a value for each layer, and the value of those without that embedding.
        rotary: Keys of the config that may hold the share of a head's dimensions that is rotated, or their number.
        transposed: Whether weights are stored [in, out].
        interleaved: Whether fused query, key and value follow one another head by head, or group by group.
        shards: In how many equal pieces a fused map lies, each with queries, values and keys in this order, if it does.
        stream: What else touches the residual stream; None where that is not known.
        legal: The largest group that keeps the function, by kind of site (residual: of latents); a kind that is left
            out has no sites. Leave out norm where more than projections read what a norm writes: in post-norm blocks
            the stream does. A gate, a ReLU or its square in the MLP adds scales to its permutations.
    """

    query: str | None = None
    key: str | None = None
    value: str | None = None
    output: str | None = None
    up: str | None = None
    down: str | None = None
    gate: str | None = None
    gated_up: str | None = None
    router: str | None = None
    packed: Literal["out-in", "in-out"] | None = None
    alternating: bool = False
    further: tuple[tuple[str, str | None, str], ...] = ()
    attention_reads: tuple[str, ...] = ()
    attention_writes: tuple[str, ...] = ()
    mlp_reads: tuple[str, ...] = ()
    with_heads: tuple[str, ...] = ()
    with_neurons: tuple[str, ...] = ()
    with_experts: tuple[str, ...] = ()
    biases: tuple[tuple[str, str], ...] = ()
    ordered_experts: bool = False
    latent: str | None = None
    latent_norm: str | None = None
    latent_query: str | None = None
    latent_query_norm: str | None = None
    raised_query: str | None = None
    latent_reads: tuple[str, ...] = ()
    gated_output: bool = False
    beside_embeddings: bool = False
    adapters: tuple[tuple[str, str, str], ...] = ()
    clamped: bool = False
    sparse: bool = False
    attention_norm: str | tuple[str, ...] | None = None
    mlp_norm: str | tuple[str, ...] | None = None
    first_norm: str | None = None
    memory_norm: str | None = None
    post_norms: tuple[str, ...] = ()
    post_norm: bool = False
    final_norm: str | None = None
    readout: str | None = None
    tied: bool = False
    query_norm: str | None = None
    key_norm: str | None = None
    bare_norms: bool = False
    layer_scales: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    config: tuple[str, ...] = ()
    part: str = ""
    layers: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    head_width: str = "head_dim"
    fixed_head_width: bool = False
    neurons: str = "intermediate_size"
    experts: tuple[str, ...] = ("num_local_experts", "num_experts")
    activation: tuple[str, ...] = ACTIVATIONS
    defaults: Mapping[str, int] = field(default_factory=dict)
    centred: bool = True
    offset: float = 0.0
    key_bias_free: bool = True
    value_bias_free: bool = True
    exposed: tuple[str, ...] = ()
    planes: Layout | None = None
    unturned: tuple[str, Any] | None = None
    rotary: tuple[str, ...] = ("partial_rotary_factor", "rotary_pct", "rotary_dim")
    transposed: bool = False
    interleaved: bool = False
    shards: int = 0
    stream: Stream | None = None
    legal: Mapping[str, str] = field(default_factory=lambda: dict(PRE_NORM))

    @property
    def first(self) -> str:
        """The template that every block has, or where blocks lack parts, most do."""
        return self.latent or self.query or self.up or self.further[0][0]

    def prefix(self, checkpoint: Shaped) -> str | None:
        """What the names of the checkpoint begin with; None if it has no tensor of a block's query."""
        for layer in range(_SEARCHED if self.sparse else 1):
            first = named(self.first.format(layer=layer, expert=0), "weight")
            tried: tuple[str, ...] = (*self.prefixes, *(_QUESTIONS if "model." in self.prefixes else ()))
            found = next((prefix for prefix in tried if prefix + first in checkpoint), None)
            if found is not None:
                return found
        return None

    def recognises(self, checkpoint: Shaped) -> int:
        """How many names of a first block the checkpoint has; 0 if it lacks one that no network leaves out."""
        prefix = self.prefix(checkpoint)
        norms = [template for template in (self.attention_norm, self.mlp_norm) if isinstance(template, str)]
        roles = [] if self.packed else [self.down]
        roles += [self.latent or self.query, self.key, self.value, self.output]
        needed, extra = (
            _names(*roles, *norms, *self.post_norms, self.router),
            _names(self.query_norm, self.key_norm),
        )
        if prefix is None or (not self.sparse and not all(prefix + name in checkpoint for name in needed)):
            return 0
        return sum(prefix + name in checkpoint for name in needed | extra)


_QUESTIONS = ("transformer.",)  # what LlamaForQuestionAnswering and its like are saved with in place of "model."
_SEARCHED = 16  # the layers of which at least one has every part


def _names(*stems: str | None) -> set[str]:
    there = [stem for stem in stems if stem and "{previous}" not in stem]
    return {named(stem.format(layer=0, expert=0), "weight") for stem in there}


def named(stem: str, which: str) -> str:
    """The name of a tensor from the stem of its module."""
    return f"{stem}{which}" if stem.endswith("_") else f"{stem}.{which}"
