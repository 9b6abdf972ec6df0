"""What the tensors of a network are called and shaped like: stacks of blocks, and the part that each map may play.

Nothing here is believed: what follows from a guess is tried on numbers (`redteam.describe.trials`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from redteam.anatomy import Architecture
from redteam.anatomy.architecture import Shaped
from redteam.checkpoint import Checkpoint

_TOKENS = {
    "query": {"q", "query", "wq", "Wq", "q_proj", "query_proj", "q_lin", "linear_q", "to_q"},
    "key": {"k", "key", "wk", "Wk", "k_proj", "key_proj", "k_lin", "linear_k", "to_k"},
    "value": {"v", "value", "wv", "Wv", "v_proj", "value_proj", "v_lin", "linear_v", "to_v"},
    "fused": {"qkv", "qkv_proj", "Wqkv", "wqkv", "c_attn", "query_key_value", "in_proj", "in_proj_", "attn_qkv"},
    "latent": {"kv_a_proj_with_mqa", "kv_a_proj"},
    "raised": {"kv_b_proj"},
    "latent_query": {"q_a_proj"},
    "raised_query": {"q_b_proj"},
    "output": {"o", "o_proj", "out_proj", "out_lin", "Wo", "wo", "c_proj", "dense", "proj", "out", "linear_out"}
    | {"projection", "projection_layer"},
    "pair": {"gate_up_proj", "input_linear", "Wi", "wi_fused", "gate_up", "up_gate_proj", "w12", "weights_in"},
    "gate": {"gate_proj", "w1", "wi_0", "fc12", "gate", "linear_gate", "fc1_g"},
    "up": {
        "up_proj",
        "fc1",
        "w3",
        "wi_1",
        "wi",
        "c_fc",
        "c_fc_0",
        "lin1",
        "fc_in",
        "dense_h_to_4h",
        "fc11",
        "linear1",
        "dense1",
    }
    | {"linear_fc1", "intermediate_dense", "pwconv1", "ffn", "linear_1", "layer_1", "intermediate", "w_1"},
    "down": {
        "down_proj",
        "fc2",
        "w2",
        "wo",
        "c_proj",
        "lin2",
        "fc_out",
        "dense_4h_to_h",
        "output_linear",
        "linear2",
        "dense2",
    }
    | {"linear_fc2", "output_dense", "pwconv2", "ffn_output", "Wo", "linear_2", "layer_2", "fc_2", "w_2", "output"},
    "router": {"router", "gate", "layer", "wg"},
}
_LATENT = ("latent", "raised", "latent_query", "raised_query", "output")
_LAYOUTS: tuple[tuple[Literal["out-in", "in-out"], bool], ...] = (
    ("out-in", False),
    ("in-out", False),
    ("in-out", True),
)
"""How experts may lie in one tensor, and whether gate and up take turns."""
_CROSS = re.compile(r"cross|encoder_attn|EncDec|encdec|xattn", re.I)
_ATTENTION = re.compile(r"attn|attention|mixer", re.I)
_MLP = re.compile(r"mlp|ffn|(^|\.)ff\.|feed_forward|expert|moe|fc\d|intermediate|dense_h|DenseRelu|lin[12]$|ffw", re.I)
_NORM = re.compile(r"norm|(^|[._])ln(_|\d|$)|layrnorm|ln_", re.I)
_SHARED = re.compile(r"shared(?!_transf)")  # by all tokens, and not by several layers
_OTHER = re.compile(r"linear_attn|mamba|(?<!pw)conv|relative|rel_pos|rotary|lora|altup|laurel|per_layer", re.I)


@dataclass(frozen=True)
class Map:
    """A module of a block.

    Attributes:
        stem: Template of its name; {expert} and {use} stand for the number of an expert or of an adapter.
        shape: Of its weight, in the first layer that has it.
        layers: Those that have it.
    """

    stem: str
    shape: tuple[int, ...]
    layers: frozenset[int]

    def is_a(self, role: str) -> bool:
        """Whether it is called like one."""
        tail = self.stem.rstrip("._").split(".")
        last = tail[-1] + ("_" if self.stem.endswith("_") else "")
        parent = tail[-2] if len(tail) > 1 else ""
        if last.isdigit():  # of an MLP whose steps have numbers alone
            return role == ("up" if last == "0" else "down") and _MLP.search(parent) is not None
        return last in _TOKENS[role] or (last in ("dense", "layer", "weight", "classifier") and parent in _TOKENS[role])


@dataclass(frozen=True)
class Stack:
    """Blocks that have names alike.

    Attributes:
        root: What stands before the block's number.
        layers: How many.
        maps: Modules with a weight of two or three dimensions.
        norms: Stems of those with a gain.
        vectors: Names of other tensors of one dimension.
        tensors: Templates of the whole names of all tensors, and their shapes.
    """

    root: str
    layers: int
    maps: tuple[Map, ...]
    norms: tuple[Map, ...]
    vectors: tuple[Map, ...] = field(default=())
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def stacks_of(checkpoint: Checkpoint) -> list[Stack]:
    """All stacks of which a block has an attention or an MLP."""
    found: dict[str, dict[tuple[str, bool], tuple[tuple[int, ...], set[int]]]] = {}
    tensors: dict[str, dict[str, tuple[int, ...]]] = {}
    nested = _nested(checkpoint)
    for name in checkpoint:
        cut = _cut(name, nested)
        if cut is None or not checkpoint.dtype(name).is_floating_point:  # indices belong to nothing that moves
            continue
        root, layer, rest = cut
        tensors.setdefault(root, {}).setdefault(f"{root}{{layer}}.{rest}", checkpoint.shape(name))
        stem, whole = re.sub(r"(experts\.(?:expert_)?)\d+(?=\.)", r"\1{expert}", rest), True
        stem = re.sub(r"(adapter_list\.)\d+(?=\.)", r"\1{use}", stem)
        for ending in (".weight", "_weight"):
            if stem.endswith(ending):
                stem, whole = stem[: -len(ending)] + ("_" if ending[0] == "_" else ""), False
        if name.endswith(".bias") or (name.endswith("_bias") and _belongs(name, checkpoint)):
            continue
        _, layers = found.setdefault(root, {}).setdefault((stem, whole), (checkpoint.shape(name), set()))
        layers.add(layer)
    stacks = []
    for root, stems in found.items():
        every = [
            Map(f"{root}{{layer}}.{stem}", shape, frozenset(layers)) for (stem, _), (shape, layers) in stems.items()
        ]
        maps = tuple(one for one in every if len(one.shape) in (2, 3))
        norms = tuple(one for one in every if len(one.shape) == 1 and _NORM.search(one.stem.rpartition("{layer}")[2]))
        vectors = tuple(one for one in every if len(one.shape) == 1 and one not in norms)
        count = 1 + max(layer for one in every for layer in one.layers)
        if maps:
            stacks.append(Stack(root, count, maps, norms, vectors, tensors[root]))
    return stacks


def _belongs(name: str, checkpoint: Shaped) -> bool:
    """Whether a bias is one of a map that is there."""
    stem = name.removesuffix("_bias")
    return stem in checkpoint or f"{stem}_weight" in checkpoint


def _cut(name: str, nested: frozenset[str]) -> tuple[str, int, str] | None:
    """What stands before a block's number, the number, and what stands behind it."""
    match = re.match(r"(.*?)(?:(?<=\.)|^)(\d+)\.(.+)", name)
    if match is None:
        return None
    root, layer, rest = match[1], int(match[2]), match[3]
    inner = re.match(r"((?:[a-z]\w*\.)?)(\d+)\.(.+)", rest)
    if inner and root in nested:
        return f"{root}{layer}.{inner[1]}", int(inner[2]), inner[3]
    return root, layer, rest


def _nested(checkpoint: Shaped) -> frozenset[str]:
    """Roots of stages that hold blocks themselves: the same modules under every inner number, and not steps alone."""
    inside: dict[str, dict[str, dict[str, set[str]]]] = {}
    for name in checkpoint:
        match = re.match(r"(.*?)(?:(?<=\.)|^)(\d+)\.((?:[a-z]\w*\.)?)(\d+)\.(.+)", name)
        if match and match[3] != "experts." and "." in match[5]:
            stage = inside.setdefault(match[1], {}).setdefault(f"{match[2]}.{match[3]}", {})
            stage.setdefault(match[4], set()).add(match[5])
    return frozenset(
        root
        for root, stages in inside.items()
        if any(len(blocks) > 1 for blocks in stages.values())
        and all(len({frozenset(rest) for rest in blocks.values()}) == 1 for blocks in stages.values())
    )


def guesses(stack: Stack, width: int) -> Iterator[Architecture]:
    """What the blocks may be: roles by names and shapes, with everything left open that numbers tell."""
    attentions, mlps = _attentions(stack, width), [*_mlps(stack, width)]
    pairs = [(part, attention, mlp) for part, attention in attentions for mlp in mlps if part != "cross"]
    pairs += [(part, attention, Architecture()) for part, attention in attentions if attention]
    pairs += [("", {}, mlp) for mlp in mlps]
    for part, attention, mlp in pairs:
        if attention or mlp != Architecture():
            yield replace(
                mlp,
                **attention,
                part=part,
                layers="",
                width="",
                kv_heads="",
                head_width="",
                neurons="",
                experts=(),
                legal={},
            )


def _attentions(stack: Stack, width: int) -> list[tuple[str, dict[str, Any]]]:
    """Of each attention in a block, the templates of its projections; one without any where there is none."""
    there = [one for one in stack.maps if len(one.shape) == 2 and _looks(one, _ATTENTION) and not _looks(one, _OTHER)]
    found: list[tuple[str, dict[str, Any]]] = []
    for part in ("", "cross"):
        mine = [one for one in there if crosses(one) == (part == "cross")]
        roles = {role: one.stem for role in ("query", "key", "value") for one in mine if one.is_a(role)}
        fused = next((one for one in mine if one.is_a("fused")), None)
        if fused is not None and len(roles) < 3:
            roles = dict.fromkeys(("query", "key", "value"), fused.stem)
        outputs = [one for one in mine if one.stem not in roles.values() and width in one.shape and one.is_a("output")]
        there_too = [one.layers for one in mine if one.stem in roles.values()]
        outputs = [one for one in outputs if all(layers <= one.layers for layers in there_too)]
        if len(roles) == 3 and outputs:
            found.append((part, {**roles, "output": outputs[0].stem}))
    latent = _latent(stack, there, width)
    found += [("", latent)] if latent else []
    return found if any(part == "" for part, _ in found) else [("", {}), *found]


def _latent(stack: Stack, there: Sequence[Map], width: int) -> dict[str, Any] | None:
    """The projections of an attention whose keys and values are raised from a latent; None where there is none."""
    roles = {role: one for role in _LATENT for one in there if one.is_a(role)}
    query = next((one.stem for one in there if one.is_a("query")), None)
    if not {"latent", "raised", "output"} <= roles.keys() or not (query or "raised_query" in roles):
        return None

    def norm(reader: Map) -> str | None:
        beside = reader.stem.rpartition(".")[0]
        fit = (one.stem for one in stack.norms if one.shape == reader.shape[1:] and one.stem.startswith(f"{beside}."))
        return next((one for one in fit if one.rpartition(".")[2][0] == reader.stem.rpartition(".")[2][0]), None)

    rest = [one for one in there if one not in roles.values() and one.stem != query]
    raised = roles["raised"]
    found: dict[str, Any] = {"latent": roles["latent"].stem, "latent_norm": norm(raised), "key": raised.stem}
    found |= {"value": raised.stem, "output": roles["output"].stem}
    found["query"] = query or f"{raised.stem.rpartition('.')[0]}.q_proj"
    found["attention_reads"] = tuple(one.stem for one in rest if one.shape[1] == width)
    if {"latent_query", "raised_query"} <= roles.keys():
        own = roles["raised_query"]
        found |= {"latent_query": roles["latent_query"].stem, "latent_query_norm": norm(own), "raised_query": own.stem}
        found["latent_reads"] = tuple(one.stem for one in rest if one.shape[1] == own.shape[1])
    return found if found["latent_norm"] else None


def _mlps(stack: Stack, width: int) -> Iterator[Architecture]:
    rest = [one for one in stack.maps if width in one.shape and not _looks(one, _OTHER)]
    rest = [one for one in rest if _looks(one, _MLP) or not _looks(one, _ATTENTION) or _mixes(one)]
    dense = [one for one in rest if len(one.shape) == 2 and "expert" not in _behind(one)]
    routers = [one for one in dense if one.is_a("router") and one.shape[0] != width and one.shape[0] < 16]
    experts = [one for one in rest if len(one.shape) == 3 or "{expert}" in one.stem]
    shared = [one for one in rest if len(one.shape) == 2 and _looks(one, _SHARED)]
    dense = [one for one in dense if one not in routers and one not in shared]
    further = [maps for group in (shared, dense) for maps in _triples(group)]
    reads = tuple(one.stem for one in shared if one.shape[0] == 1)
    if routers and experts:
        layouts = _LAYOUTS if len(experts[0].shape) == 3 else _LAYOUTS[:0]
        for up, gate, down in _triples(experts, single=False):
            guess = Architecture(up=up, gate=gate, down=down, router=routers[0].stem, mlp_reads=reads)
            guess = replace(guess, further=tuple(further))
            yield from (replace(guess, packed=layout, alternating=turns) for layout, turns in layouts)
            if not layouts:
                yield guess
        return
    for up, gate, down in _triples(dense, single=False):
        others = tuple(maps for maps in further if maps[0] != up)
        yield Architecture(up=up, gate=gate, down=down, further=others, mlp_reads=reads)


def _triples(maps: Iterable[Map], *, single: bool = True) -> list[tuple[str, str | None, str]]:
    """Up, gate and down among some maps, the likelier order first; one guess for each parent where single."""
    maps = list(maps)
    downs = [one for one in maps if one.is_a("down")]
    pairs = [one.stem for one in maps if one.is_a("pair") and one not in downs]
    ups = [one.stem for one in maps if one.is_a("up") and one not in downs]
    gates = [one.stem for one in maps if one.is_a("gate") and one not in downs]
    found: list[tuple[str, str | None, str]] = []
    for down in downs:
        parent = down.stem.rpartition(".")[0]

        def near(stems: list[str], parent: str = parent) -> list[str]:
            return [stem for stem in stems if stem.rpartition(".")[0] == parent] or stems

        found += [(up, up, down.stem) for up in near(pairs)]
        for up in near(ups):
            for gate in near(gates):
                found += [(up, gate, down.stem), (gate, up, down.stem)]
            found.append((up, None, down.stem))
        if not ups and len(near(gates)) == 1:
            found.append((gates[0], None, down.stem))
    return found[:1] if single and found else found


def _mixes(one: Map) -> bool:
    """Whether it is an MLP's in a block that calls all its parts by one name."""
    return "mixer" in _behind(one) and any(one.is_a(role) for role in ("up", "gate", "down", "router"))


def crosses(one: Map) -> bool:
    """Whether it is called like a part of cross attention."""
    return _looks(one, _CROSS)


def _behind(one: Map) -> str:
    return one.stem.partition("{layer}")[2]


def _looks(one: Map, pattern: re.Pattern[str]) -> bool:
    return pattern.search(_behind(one)) is not None


def heads_key(config: Mapping[str, object], root: str) -> str | None:
    """The key of a config that says how many heads a stack has; of a stage, its place in a list."""
    names: tuple[str, ...] = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "heads")
    side = next((side for side in ("encoder", "decoder") if side in root), None)
    if side is not None:
        names = (f"{side}_attention_heads", *names)
    stage = re.search(r"\.(\d+)\.(\w+\.)?$", root)
    for name in names:
        found = config.get(name)
        if isinstance(found, list) and stage and int(stage[1]) < len(found):
            return f"{name}.{stage[1]}"
        if isinstance(found, int):
            return name
    return None
