"""What a stack of blocks is, settled by numbers: a field of its description after the other, the freest value first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, islice, product
from typing import Any

from redteam.anatomy import Architecture, Layout
from redteam.anatomy.blocks import Blocks
from redteam.checkpoint.tensors import in_a_block
from redteam.describe.roles import Map, Stack, crosses, guesses, heads_key
from redteam.describe.stored import ends, half_run, stored
from redteam.describe.trials import KEPT, Trial

_FEW = 16
_LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")
_ROTARY = ("partial_rotary_factor", "rotary_pct", "rotary_dim", "rotary_percent", "rotary_emb_fraction")
_QUERY = re.compile(r"(^|[._])(q|query|q_a)_?(norm|layernorm|ln)", re.I)
_SCALE = re.compile(r"scale|gamma|lambda|(^|[._])ls_?\d", re.I)
_OF_HEADS = re.compile(r"attn|attention|relative|position_bias|logit_scale")
_KEY = re.compile(r"(^|[._])(k|key)_?(norm|layernorm|ln)", re.I)


@dataclass(frozen=True)
class Settled:
    """A stack that was described.

    Attributes:
        architecture: With templates that begin where the checkpoint's names do.
        stack: What it was made of.
        norms: Norms of the model's width inside the blocks whose place nothing told.
    """

    architecture: Architecture
    stack: Stack
    norms: tuple[str, ...] = ()


def settle(trial: Trial, stack: Stack, width: int, part: str, path: Sequence[str]) -> list[Settled]:
    """A stack and the cross attention in it; none where nothing of it could be told.

    Args:
        trial: The network.
        stack: One of its stacks.
        width: Of its residual stream.
        part: Tells it from the network's other stacks.
        path: Keys that lead to its part of the config.
    """
    config: Mapping[str, Any] = trial.checkpoint.config
    for key in path:
        config = config[key]
    heads = heads_key(config, stack.root)
    checkpoint = trial.checkpoint
    stems = [name.removesuffix(".weight") for name in checkpoint if name.endswith(".weight") and not in_a_block(name)]
    outside = [stem for stem in stems if checkpoint.shape(f"{stem}.weight") == (width,)]
    found: list[Settled] = []
    guessed = [guess for guess in guesses(stack, width) if guess.query or guess.up or guess.further]
    guessed = [guess for guess in guessed if not half_run(guess, stack, trial.exact.unread)]
    for kind, name in (("", part), ("cross", f"{part}-cross" if part else "cross")):
        own = [
            replace(one, part=name, config=tuple(path), heads=heads or "")
            for one in guessed
            if one.part == kind and (heads or not one.query)
        ]
        first = _first(trial, stack, width, own)
        if first is not None:
            found.append(_Search(trial, stack, width, config, outside).settled(first))
    return found


def _first(trial: Trial, stack: Stack, width: int, guessed: Iterable[Architecture]) -> Architecture | None:
    """The first guess of whose attention and MLP something is free."""
    partly, compared = None, None
    for guess in guessed:
        for one in stored(guess, stack, width):
            tries = replace(one, clamped=True, legal={"vo": "orthogonal", "mlp": "permutation"})
            if trial.anatomy(tries) is None:
                continue
            vo = not one.query or trial.kept(tries, "vo", 1) <= KEPT
            mlp = one.up is None or trial.kept(tries, "mlp", 1) <= KEPT
            if vo and mlp and (one.query or one.up):
                return one if one.query or compared is None else compared
            if partly is None and (vo if one.query else mlp):
                partly = one
            if compared is None and one.query and mlp and _compares(trial, one):
                compared = one
    return compared if compared and not (partly and partly.query) else partly


def _compares(trial: Trial, guess: Architecture) -> bool:
    """Whether its queries and keys meet head by head, whatever becomes of the values (DiffLlama takes differences)."""
    tries = (replace(guess, planes=planes, legal={"qk": "general-linear"}) for planes in (None, *_LAYOUTS))
    return guess.latent is None and any(trial.kept(one, "qk", 1) <= KEPT for one in tries)


class _Search:
    """Settles the rest of a guess whose attention or MLP is right."""

    def __init__(
        self, trial: Trial, stack: Stack, width: int, config: Mapping[str, Any], outside: Sequence[str]
    ) -> None:
        self.outside = outside
        self.trial, self.stack, self.width, self.config = trial, stack, width, config
        self.norms, self.wide = (
            [one.stem for one in stack.norms if one.shape == (size,)] for size in (width, 2 * width)
        )

    def settled(self, arch: Architecture) -> Settled:
        """The description, each kind of sites in it tried."""
        vectors = (one.stem for one in self.stack.vectors if one.shape == (self.width,))
        scales = tuple(one for one in vectors if _SCALE.search(one.partition("{layer}")[2]))
        arch = replace(arch, key_bias_free=False, centred=False, layer_scales=scales)
        if arch.query:
            arch = arch if arch.latent else self._query_norms(arch)
            arch = self._qk(arch)
            arch = self._with(arch, "vo", ("general-linear", "orthogonal", "scaled-permutation", "permutation"))
            arch = self._heads(arch)
        if arch.latent:
            arch = self._with(arch, "residual", ("signed-permutation",))
        arch = self._mlp(arch)
        arch = self._norms(arch)
        arch = self._shifts(arch)
        rest = [norm for norm in self.norms if norm not in _named(arch)]
        return Settled(arch, self.stack, tuple(rest))

    def holds(self, arch: Architecture, kind: str) -> bool:
        return self.trial.kept(arch, kind) <= KEPT

    def _with(self, arch: Architecture, kind: str, groups: Iterable[str]) -> Architecture:
        """The largest of some groups that keeps the function at a kind of sites; without the kind if none does."""
        for group in groups:
            tried = replace(arch, legal={**arch.legal, kind: group})
            if self.holds(tried, kind):
                return tried
        return arch

    def _query_norms(self, arch: Architecture) -> Architecture:
        """Norms of queries and keys, by name: their place is plain, and how far they bind is tried."""
        inside = [one for one in self.stack.norms if self._beside(one, arch)]
        query = next((one.stem for one in inside if _QUERY.search(one.stem.partition("{layer}")[2])), None)
        key = next((one.stem for one in inside if _KEY.search(one.stem.partition("{layer}")[2])), None)
        return replace(arch, query_norm=query, key_norm=key) if query and key else arch

    def _beside(self, norm: Map, arch: Architecture) -> bool:
        return crosses(norm) == ("cross" in arch.part)

    def _qk(self, arch: Architecture) -> Architecture:
        """The rotary embedding, and what of queries and keys is free."""
        shares = [(), *((key,) for key in _ROTARY if self._says(key))]
        for planes in (None, *_LAYOUTS):
            for rotary in shares[::-1] if planes else shares[:1]:
                for centred, offset in (
                    ((False, 0.0), (False, 1.0), (True, 0.0)) if arch.query_norm else ((False, 0.0),)
                ):
                    tried = replace(
                        arch,
                        planes=planes,
                        rotary=rotary,
                        offset=offset,
                        centred=centred,
                        legal={**arch.legal, "qk": "general-linear"},
                    )
                    kinds = ("qk", "qk-norm") if arch.query_norm and not centred else ("qk",)
                    if arch.query_norm and planes is None:
                        continue
                    if all(self.holds(tried, kind) for kind in kinds):
                        return self._unturned(replace(tried, centred=False))
        if not arch.query_norm:  # queries and keys of length one
            turned = self._with(replace(arch, planes=None, rotary=()), "qk", ("orthogonal",))
            if "qk" in turned.legal:
                return turned
        for planes in _LAYOUTS:  # norms without gains leave signs alone
            tried = replace(
                arch, planes=planes, rotary=(), bare_norms=True, legal={**arch.legal, "qk": "general-linear"}
            )
            if not arch.query_norm and self.holds(tried, "qk"):
                return self._unturned(tried)
        return replace(arch, rotary=())

    def _says(self, key: str) -> bool:
        nested = self.config.get("rope_parameters")
        return self.config.get(key) is not None or (isinstance(nested, Mapping) and nested.get(key) is not None)

    def _unturned(self, arch: Architecture) -> Architecture:
        """Layers without the rotary embedding, where a list of the config tells them."""
        if arch.planes is None or arch.query_norm:
            return arch
        anatomy = self.trial.anatomy(arch)
        attending = {site.layer for site in anatomy.sites(("qk",))} if anatomy else set()
        for key, values in self.config.items():
            if isinstance(values, list) and len(values) == self.stack.layers:
                there = (value for layer, value in enumerate(values) if layer in attending)
                for value in dict.fromkeys(x for x in there if isinstance(x, (int, str))):
                    tried = replace(arch, unturned=(key, value))
                    if self.holds(tried, "qk"):
                        return tried
        return arch

    def _heads(self, arch: Architecture) -> Architecture:
        heads = Blocks(arch, self.trial.checkpoint).heads
        named = (name for name in self.stack.tensors if _OF_HEADS.search(name.partition("{layer}")[2]))
        numbers = tuple(name for name in named if heads in ends(self.stack.tensors[name]))
        fewer = (some for few in range(len(numbers), -1, -1) for some in combinations(numbers, few))
        for with_heads in islice(fewer, _FEW):
            tried = self._with(replace(arch, with_heads=with_heads), "heads", ("permutation",))
            if "heads" in tried.legal:
                return self._with(tried, "queries", ("permutation",))
        return arch

    def _mlp(self, arch: Architecture) -> Architecture:
        if arch.up is None and not arch.further:
            return arch
        biases = tuple(one.stem for one in self.stack.vectors if "bias" in one.stem.rpartition(".")[2])
        for clamped in (False, True):
            tried = self._with(replace(arch, clamped=clamped), "mlp", ("permutation",))
            if "mlp" in tried.legal:
                arch = tried
                break
        for with_experts in dict.fromkeys((biases, ())) if arch.router else ():
            tried = replace(arch, with_experts=with_experts)
            if self.holds(tried, "experts"):
                return tried
        return arch

    def _norms(self, arch: Architecture) -> Architecture:
        """The norms that projections read, by gains that move between them."""
        free = {**arch.legal, "norm": "scaling"}
        told = arch.query_norm and "qk" in arch.legal
        offsets = (arch.offset,) if told else dict.fromkeys((arch.offset, 0.0, 1.0))
        for offset in offsets:
            base = replace(arch, offset=offset, legal=free)
            found = base
            if arch.query:
                more = base if arch.beside_embeddings else self._with_others(base)
                found = self._norm(more, "attention_norm")
                found = self._norm(base, "attention_norm") if found is more else found
            if arch.up or arch.further:
                found = self._norm(found, "mlp_norm")
            if found is base and arch.query and arch.up:
                both = (replace(base, attention_norm=norm, mlp_norm=norm) for norm in self.norms)
                found = next((one for one in both if self.holds(one, "norm")), base)
            if found is not base:
                return replace(found, legal=free)
        return self._post_norm(arch)

    def _with_others(self, arch: Architecture) -> Architecture:
        """With the maps of what may be beside attention or in its place: those that nothing else accounts for."""
        texts = templates(arch)
        rest = [one for one in self.stack.maps if one.stem not in texts and len(one.shape) == 2 and not crosses(one)]
        out = [one for one in rest if one.shape[0] == self.width and (one.shape[1] != self.width or one.is_a("output"))]
        writes = tuple(one.stem for one in out)
        reads = tuple(one.stem for one in rest if one.shape[1] == self.width and one.stem not in writes)
        more = (*arch.attention_reads, *reads)
        return replace(arch, attention_reads=more, attention_writes=writes) if reads else arch

    def _norm(self, arch: Architecture, field: str) -> Architecture:
        """Of what an encoder hands on, another norm stands before keys and values."""
        cross = arch.part.endswith("cross")
        memory = next((one for one in self.outside if "encoder" in one), None) if cross else None
        norms = self.wide if arch.beside_embeddings and field == "attention_norm" else self.norms
        for norm in sorted(norms, key=lambda one: one in (arch.attention_norm, arch.mlp_norm)):
            alone: dict[str, Any] = {"attention_norm": None, "mlp_norm": None, field: norm, "memory_norm": memory}
            if self.holds(replace(arch, **alone), "norm"):
                return replace(arch, memory_norm=memory, **{field: norm})  # type: ignore[arg-type]
        return arch

    def _post_norm(self, arch: Architecture) -> Architecture:
        """Norms that stand after the addition, so that what they write is the stream: shifts tell which is read where.

        The order within a block is told by what the MLP reads; attention reads the last norm of the block before, and
        in the first block one of the embeddings.
        """
        if arch.up is None or not self.norms:
            return arch
        base = replace(arch, centred=True, post_norm=True)
        for after in self.norms:
            tried = replace(base, mlp_norm=after)
            if self.trial.shifted(tried, ("mlp",)) > KEPT or not self._tells(tried, "mlp"):
                continue
            for last in self.norms:
                for first in self.outside if last != after else ():
                    both = replace(
                        tried,
                        attention_norm=last.replace("{layer}", "{previous}"),
                        first_norm=first,
                        post_norms=(last,),
                    )
                    if self.trial.shifted(both, ("qk", "vo")) <= KEPT and self._tells(both, "qk"):
                        return both
            return tried
        return arch

    def _tells(self, arch: Architecture, kind: str) -> bool:
        """Whether a shift sees what a norm hands on, so that one that was kept tells its place."""
        anatomy = self.trial.anatomy(arch)
        return anatomy is not None and all(site.left.linear.reads_centred for site in anatomy.sites((kind,)))

    def _shifts(self, arch: Architecture) -> Architecture:
        """Whether norms subtract the mean, and which biases go unseen."""
        if not arch.legal:
            return arch
        for centred in (True,) if arch.post_norm else (True, False):
            for exposed in ((), ("",)) if centred else ((),):
                for key, value in product((True, False), repeat=2):
                    tried = replace(arch, centred=centred, exposed=exposed, key_bias_free=key, value_bias_free=value)
                    if "qk" in arch.legal and not self.holds(tried, "qk"):
                        continue
                    if self.trial.shifted(tried, ("qk", "vo", "mlp")) <= KEPT:
                        return tried
        bare = replace(arch, centred=False, key_bias_free=False)
        return replace(bare, value_bias_free=not KEPT < self.trial.shifted(bare, ("vo",)) < math.inf)


def templates(arch: Architecture) -> set[str]:
    """All templates of a description."""
    found: set[str] = set()
    values: list[Any] = [getattr(arch, one.name) for one in fields(arch)]
    while values:
        value = values.pop()
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, tuple):
            values += value
    return found


def _named(arch: Architecture) -> set[str]:
    found = {arch.attention_norm, arch.mlp_norm, arch.query_norm, arch.key_norm, *arch.post_norms}
    return {one for one in found if isinstance(one, str)}
