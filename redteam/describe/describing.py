"""A model type described by trying: a small random network, guesses by names and shapes, judged by what it computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from redteam.anatomy import ORDER, Architecture, Network, Site, Stream, largest_group
from redteam.anatomy.architecture import ArchitectureLike
from redteam.anatomy.files import as_data
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.libraries import quiet_transformers
from redteam.checkpoint.modules import initialised, weights_of
from redteam.describe.blocks import Settled, settle, templates
from redteam.describe.roles import Stack, stacks_of
from redteam.describe.shrink import small_configs
from redteam.describe.streams import with_streams
from redteam.describe.trials import KEPT, Trial
from redteam.errors import BadInput, NotACheckpoint

if TYPE_CHECKING:
    from torch import Tensor

_Described = TypeVar("_Described", Architecture, Stream)
_STATE_SPACE = re.compile(r"A_log|dt_proj|dt_bias|time_decay|time_mix")
_NAMED = 3
_LARGEST = 16_000_000  # weights of a small network; what stays larger has a size that nobody knows how to shrink


@dataclass(frozen=True)
class Row:
    """The proof of one kind of sites.

    Attributes:
        kind: As in `redteam.anatomy.KINDS_OF_SITES`.
        part: Of the network.
        sites: How many the small network has.
        group: The largest that keeps the function.
        change: `max|Δ| / max|output|` in float64 under random elements of it at all sites at once.
        back: What is left of such a lock after the closed-form fit to the original, over the original's norm.
    """

    kind: str
    part: str
    sites: int
    group: str
    change: float
    back: float


@dataclass(frozen=True)
class Description:
    """A model type, and the proof of it.

    Attributes:
        model_type: As in a config.
        network: The class of transformers that was tried.
        described: What it was found to be.
        rows: The proof.
        remarks: What could not be settled, in sentences.
        config: Of the small network.
    """

    model_type: str
    network: str
    described: Network
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    config: Mapping[str, Any]

    def as_data(self) -> dict[str, Any]:
        """What `redteam.anatomy.files` reads, with the proof beside it."""
        import transformers

        return {
            "model_type": self.model_type,
            "network": self.network,
            "transformers": transformers.__version__,
            **as_data(self.described),
            "proof": [asdict(row) for row in self.rows],
            "open": list(self.remarks),
        }


def describe(config: Mapping[str, Any], tell: Callable[[str], None] = lambda _: None) -> Description:
    """Describes the model type of a config.

    Args:
        config: Complete; sizes are made small, switches stay.
        tell: Takes a line on what is being tried.

    Raises:
        BadInput: If transformers builds no small network of it, it does not run, or nothing of it keeps the function.
    """
    with quiet_transformers():
        trial = small_network(config)
        tell(f"{trial.checkpoint.config['architectures'][0]}: {len(trial.checkpoint)} tensors")
        width_of = _widths(trial)
        stacks = [stack for stack in stacks_of(trial.checkpoint) if width_of(stack)]
        settled: list[Settled] = []
        for stack in stacks:
            tell(f"{stack.root}: {stack.layers} blocks")
            part = _part(stack, stacks)
            settled += settle(trial, stack, width_of(stack), part, _path(trial.checkpoint.config, stack, part))
        settled = [one for one in settled if one.architecture.legal]
        if not settled:
            raise BadInput(_nothing(trial, stacks))
        network = with_streams(trial, settled)
        tell("the largest group at every kind of sites")
        name = trial.checkpoint.config["architectures"][0]
        network, rows = _proven(trial, _relative(network, name))
        remarks = [*_left_alone(trial, network, stacks)]
    return Description(str(config["model_type"]), name, network, tuple(rows), tuple(remarks), trial.checkpoint.config)


def small_network(config: Mapping[str, Any]) -> Trial:
    """A small random network of a config's type.

    Raises:
        BadInput: With what transformers said of the last try.
    """
    import torch

    why = ""
    for tiny in small_configs(config):
        try:
            with torch.device("meta"):
                size = sum(weight.numel() for weight in initialised(tiny, 0).parameters())
            if size > _LARGEST:
                raise BadInput(f"its sizes could not be made small: {size} weights are left")
            weights = {_published(name): _in_float64(t) for name, t in weights_of(initialised(tiny, 0)).items()}
            return Trial.of(Checkpoint.of(weights, tiny))
        except Exception as error:  # whatever a library raises on a config that it does not like
            said = error.__cause__ if isinstance(error, NotACheckpoint) and error.__cause__ else error
            why = " ".join(str(said).split())[:300] or type(said).__name__  # no file is to blame for a config made here
    raise BadInput(f"No small network of model_type {config.get('model_type')!r} could be built and run ({why}).")


def _in_float64(tensor: Tensor) -> Tensor:
    """A weight in float64; an index, which a buffer may be, as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def _published(name: str) -> str:
    """A tensor's name as it is in files that people publish, where transformers saves an older one (ESM)."""
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _widths(trial: Trial) -> Callable[[Stack], int]:
    """Tells the width of a stack's stream: the size that most of its maps have on one side."""

    def width(stack: Stack) -> int:
        sizes: dict[int, int] = {}
        for one in stack.maps:
            for size in set() if "{use}" in one.stem else set(one.shape):  # adapters repeat the sizes of their map
                sizes[size] = sizes.get(size, 0) + len(one.layers)
        for one in stack.norms:
            sizes[one.shape[0]] = sizes.get(one.shape[0], 0) + 2 * len(one.layers)
        return max(sizes, key=lambda size: (sizes[size], size), default=0)

    return width


def _part(stack: Stack, stacks: list[Stack]) -> str:
    """A word that tells a stack from the others; none where it is alone."""
    if len(stacks) == 1:
        return ""
    for word in ("decoder", "encoder", "vision", "visual", "text", "language", "audio"):
        if word in stack.root and sum(word in other.root for other in stacks) == 1:
            return word
    return stack.root.strip(".").replace(".", "-")


def _path(config: Mapping[str, Any], stack: Stack, part: str) -> tuple[str, ...]:
    """Keys that lead to a stack's part of the config."""
    words = {
        "language": ("text",),
        "text": ("text",),
        "visual": ("vision",),
        "vision": ("vision",),
        "audio": ("audio",),
        "backbone": ("backbone",),
    }
    looked = [part, *words.get(part, ()), *(w for w in words if w in stack.root)]
    for key, value in config.items():
        if isinstance(value, Mapping) and any(w and (key == w or key.startswith(f"{w}_")) for w in looked):
            return (key,)
    texts = [key for key in ("text_config", "language_config", "llm_config") if isinstance(config.get(key), Mapping)]
    if texts and not any(w in stack.root for w in ("vision", "visual", "audio")):
        return (texts[0],)
    return ()


def rows_of(trial: Trial, described: Architecture | ArchitectureLike) -> list[Row]:
    """The proof of a description, kind by kind.

    Raises:
        BadInput: If a kind of sites does not keep the function.
    """
    rows: list[Row] = []
    for kind in ORDER:
        anatomy = trial.anatomy(described)
        sites = () if anatomy is None else anatomy.sites((kind,))
        if not sites:
            continue
        change = trial.kept(described, kind, draws=3)
        if not change <= KEPT:
            raise _NotKept(kind, change)
        back = trial.back(described, kind)
        for part, group in groupby(sorted(sites, key=_part_of), key=_part_of):
            mine = list(group)
            named = " or ".join(dict.fromkeys(largest_group(site.legal) for site in mine))
            rows.append(Row(kind, part, len(mine), named, change, back))
    return rows


class _NotKept(BadInput):
    def __init__(self, kind: str, change: float) -> None:
        super().__init__(f"The sites of the kind {kind} do not keep the function: the outputs change by {change:.1e}.")
        self.kind = kind


def _proven(trial: Trial, network: Network) -> tuple[Network, list[Row]]:
    """A description and its proof; a kind that does not hold as a whole is taken out."""
    for _ in range(len(ORDER)):
        try:
            return network, rows_of(trial, network)
        except _NotKept as error:
            network = _without(network, error.kind)
    return network, rows_of(trial, network)


def _part_of(site: Site) -> str:
    return re.sub(r"/?expert-\d+", "/expert", site.part).removeprefix("/")


def _without(network: Network, kind: str) -> Network:
    """A description without a kind of sites."""
    if kind in ("residual", "norm-scale") and network.streams:
        return replace(network, streams=())
    if kind == "norm-scale":  # of norms that stand behind the addition or on an output, whose place is not known then
        return replace(network, stacks=tuple(_without_post_norms(stack) for stack in network.stacks))
    if kind == "experts":
        return replace(network, stacks=tuple(replace(stack, ordered_experts=True) for stack in network.stacks))
    less = [
        replace(stack, legal={k: group for k, group in stack.legal.items() if k != kind}) for stack in network.stacks
    ]
    return replace(network, stacks=tuple(less))


def _without_post_norms(stack: Architecture) -> Architecture:
    if not stack.post_norm:
        return replace(stack, post_norms=())
    return replace(stack, post_norms=(), post_norm=False, attention_norm=None, mlp_norm=None, first_norm=None)


def _left_alone(trial: Trial, network: Network, stacks: list[Stack]) -> Iterator[str]:
    """What a description says nothing of."""
    described = {stack.first.partition("{layer}")[0] for stack in network.stacks}
    for stack in stacks:
        if not any(stack.root.endswith(root) for root in described):
            yield f"The blocks of {stack.root.strip('.')} are left as they are: no symmetry of theirs was found."
    for found in network.stacks:
        root = found.first.partition("{layer}")[0].strip(".")
        kinds = [kind for kind in ("qk", "vo", "heads") if found.query] + ["mlp"] * bool(found.up or found.further)
        for kind in kinds:
            if kind not in found.legal:
                yield f"{root}: no group keeps the function at {kind}."
        beside = sorted(_beside(found, stacks))
        if found.query and beside:
            names = ", ".join(beside[:_NAMED]) + (", …" if len(beside) > _NAMED else "")
            yield f"{root}: {names} are in no pair of maps that is described; the stream and norms alone move them."
        if not found.query and not any(other.query and other.first.startswith(root) for other in network.stacks):
            yield f"{root}: the attention, if there is one, has none of the known forms and is left as it is."
    if trial.exact.unread:
        alike = (re.sub(r"\.(weight|bias)$", "", re.sub(r"\.\d+\.", ".*.", one)) for one in trial.exact.unread)
        maps = dict.fromkeys(alike)
        names = ", ".join([*maps][:_NAMED]) + (", …" if len(maps) > _NAMED else "")
        yield f"No input reached {names}: what depends on these is left as it is, and so is the residual stream."
    elif not network.streams:
        yield "What else touches the residual stream could not be told: there are no sites of the kind residual."


def _beside(found: Architecture, stacks: list[Stack]) -> Iterator[str]:
    """The maps of a stack's blocks that have no site of their own, such as a state space's."""
    root = found.first.partition("{layer}")[0]
    named = templates(replace(found, attention_reads=(), attention_writes=()))
    for stack in stacks:
        if stack.root.endswith(root):
            maps = (one.stem.partition("{layer}.")[2] for one in stack.maps if len(one.shape) == 2)
            yield from (one for one in maps if not any(one == text.partition("{layer}.")[2] for text in named))


def _nothing(trial: Trial, stacks: list[Stack]) -> str:
    kind = trial.checkpoint.config.get("model_type")
    roots = ", ".join(stack.root.strip(".") for stack in stacks) or "no numbered blocks"
    spaces = any(_STATE_SPACE.search(name) for name in trial.checkpoint)
    return (
        f"Nothing was found in model_type {kind!r} that keeps the function ({roots}): neither attention with queries, "
        "keys and values nor an MLP of two maps has one of the known groups"
        + (", and none is known for the state spaces or recurrences that its blocks are made of." if spaces else ".")
    )


def _relative(network: Network, name: str) -> Network:
    """With the prefix of the network without a head cut off, since that is saved without it."""
    import transformers

    prefix = str(getattr(getattr(transformers, name, None), "base_model_prefix", "") or "")
    prefix = f"{prefix}." if prefix else ""
    if not prefix:
        return network
    bare = not any(stack.first.startswith(prefix) for stack in network.stacks)
    if not bare and not all(stack.first.startswith(prefix) for stack in network.stacks):
        return network
    if bare:
        return _with_prefix(network, prefix)
    return _renamed(network, (prefix, ""), lambda name: name.removeprefix(prefix), prefix)


def _with_prefix(network: Network, prefix: str) -> Network:
    """Of a network without a head, whose names have the prefix in one with a head."""
    return _renamed(network, ("", prefix), lambda name: name, "")


def _renamed(network: Network, prefixes: tuple[str, ...], cut: Callable[[str], str], prefix: str) -> Network:
    """With other templates in the blocks, and `{prefix}` before the names in the streams that begin with one."""

    def marked(name: str) -> str:
        return "{prefix}" + name.removeprefix(prefix) if name.startswith(prefix) else name

    stacks = (replace(_each_name(stack, cut), prefixes=prefixes) for stack in network.stacks)
    return Network(tuple(stacks), tuple((_each_name(stream, marked), parts) for stream, parts in network.streams))


def _each_name(described: _Described, change: Callable[[str], str]) -> _Described:
    """A description with every string in it changed, but those that are parts of names of classes."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        return tuple(changed(each) for each in value) if isinstance(value, tuple) else value

    kept = {"tied_classes", "exposed"}
    names = (one.name for one in fields(described) if one.name not in kept)
    return replace(described, **{name: changed(getattr(described, name)) for name in names})
