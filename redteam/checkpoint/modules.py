"""Networks built from a checkpoint by transformers or open_clip. What came along as code is never run."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from redteam.checkpoint.configs import ACTIVATIONS
from redteam.checkpoint.discover import OPEN_CLIP
from redteam.checkpoint.from_open_clip import initialised_open_clip, open_clip_network
from redteam.checkpoint.known import NETWORK, completed, known_network, without_weights
from redteam.checkpoint.libraries import as_a_sentence, quiet_transformers, require_fit
from redteam.checkpoint.naming import class_for, is_remnant
from redteam.checkpoint.numbered_network import on_the_base_numbers
from redteam.checkpoint.placed import built_at_home
from redteam.checkpoint.products import with_fast_products
from redteam.checkpoint.skeleton import Loader, sources, tensors_of, with_weights
from redteam.checkpoint.tensors import NUMBERS, Tensors, in_a_block
from redteam.errors import BadInput, Inapplicable, NotACheckpoint
from redteam.memory import require

if TYPE_CHECKING:
    from torch import nn

    from redteam.checkpoint.sources import Source
    from redteam.checkpoint.streamed import Streamed


Look = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Takes a label, what a layer was given and what it gave."""

_SHARD = "256MB"  # of which savers may hold a copy


def build(checkpoint: Tensors, dtype: torch.dtype | None) -> nn.Module:
    """The network in evaluation mode, with these weights, on the device that they are on.

    Args:
        checkpoint: Config and weights.
        dtype: In which the weights are held; as stored by default.

    Raises:
        NotACheckpoint: If no such network is known, or the tensors do not fit it.
        NotEnoughMemory: If the run may not take so much.
    """
    held = checkpoint.nbytes if dtype is None else checkpoint.weights * dtype.itemsize
    require(held, f"A network of {checkpoint.weights / 1e6:.3g} million weights{_told(dtype)}")
    return built_at_home(checkpoint, lambda held: _built(held, dtype))


def _built(checkpoint: Tensors, dtype: torch.dtype | None) -> nn.Module:
    if NETWORK in checkpoint.config:
        return with_fast_products(_loader(checkpoint)(checkpoint, dtype))
    return with_fast_products(_numbered(with_weights(checkpoint, dtype, _load), checkpoint))


def _told(dtype: torch.dtype | None) -> str:
    return "" if dtype is None else f" in {str(dtype).removeprefix('torch.')}"


def build_without_heads(checkpoint: Tensors, dtype: torch.dtype) -> nn.Module:
    """The network, its tensors outside the numbered blocks drawn at random where the checkpoint lacks them.

    Raises:
        NotACheckpoint: If no such network is known, or the tensors do not fit it otherwise.
    """
    if NETWORK in checkpoint.config or checkpoint.architecture == OPEN_CLIP:
        return build(checkpoint, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return built_at_home(
            checkpoint,
            lambda held: with_fast_products(_numbered(_transformers(held, dtype, heads=False), held)),
        )


def build_streamed(checkpoint: Tensors, dtype: torch.dtype) -> Streamed:
    """The network with weights that are read as its blocks run, for what is larger than memory.

    Args:
        checkpoint: Config and weights.
        dtype: In which a block's weights are held.

    Raises:
        NotACheckpoint: If transformers knows no such network, the tensors do not fit it, or it cannot be loaded so.
    """
    from redteam.checkpoint.streamed import streamed

    if NETWORK in checkpoint.config or checkpoint.architecture == OPEN_CLIP:
        raise NotACheckpoint("Only networks of transformers are run block by block.")
    cls, config = _fitting(checkpoint)
    found = streamed(checkpoint, cls, config, dtype)
    _numbered(found.network, checkpoint)
    return found


def _numbered(network: nn.Module, checkpoint: Tensors) -> nn.Module:
    """The network as it is run on the base's numbers of tokens; whatever builds one anew has it without that."""
    if NUMBERS in checkpoint:
        on_the_base_numbers(network, checkpoint[NUMBERS])
    return network


def parameter_names(checkpoint: Tensors) -> dict[str, str]:
    """Name of a tensor → the parameter (or buffer) of its network that holds it, alone or together with others.

    Libraries rename and stack tensors on the way in. Tied parameters have the name that `named_parameters` gives.

    Raises:
        NotACheckpoint: If there is no such network.
    """
    found: dict[str, str] = {}
    for place, source in sources(checkpoint, _loader(checkpoint)).items():
        for name in source.names:
            found.setdefault(name, place)
    return found


def parameters_of(checkpoint: Tensors) -> dict[str, torch.Tensor]:
    """The parameters of the network, float32, by the network's own names."""
    return {name: parameter.detach() for name, parameter in build(checkpoint, torch.float32).named_parameters()}


def plain_parameters(checkpoint: Tensors) -> dict[str, str]:
    """Name of a tensor → the parameter (or buffer) of its network that is this tensor, as it is.

    Raises:
        NotACheckpoint: If there is no such network.
    """
    return {name: place for place, name in _kept_as_is(checkpoint).items()}


def layer_paths(checkpoint: Tensors, names: Iterable[str]) -> dict[str, str]:
    """Name of a weight → path of the submodule that has it, as it is in the checkpoint.

    Raises:
        BadInput: If no submodule has a tensor of these to itself.
    """
    alone = plain_parameters(checkpoint)
    paths = {}
    for name in names:
        if name not in alone:
            raise BadInput(f"The network does not hold {name!r} as it is in the checkpoint; expected a matrix of it.")
        paths[name] = alone[name].rpartition(".")[0]
    return paths


def linear_paths(checkpoint: Tensors, network: nn.Module) -> dict[str, str]:
    """Name of a weight → path of the linear map in the checkpoint's network that has it, as it is, to itself."""
    from torch.nn import Linear

    alone = _kept_as_is(checkpoint)
    return {
        alone[f"{path}.weight"]: path
        for path, module in network.named_modules()
        if isinstance(module, Linear) and f"{path}.weight" in alone
    }


def _kept_as_is(checkpoint: Tensors) -> dict[str, str]:
    """Parameter (or buffer) of the checkpoint's network → the tensor that it is; two where tensors are tied."""
    return {place: s.names[0] for place, s in sources(checkpoint, _loader(checkpoint)).items() if s.index is None}


@contextlib.contextmanager
def watched(network: nn.Module, paths: Mapping[str, str], look: Look) -> Iterator[None]:
    """While it is active, calls `look` after some submodules ran.

    Args:
        network: A network.
        paths: Label → path of a submodule.
        look: Called with the label, the first input and the output.
    """

    def hook(label: str) -> Any:
        return lambda _, given, output: look(label, given[0], output)

    hooks = [network.get_submodule(path).register_forward_hook(hook(label)) for label, path in paths.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _loader(checkpoint: Tensors) -> Loader:
    name = checkpoint.config.get(NETWORK)
    return _load if name is None else _installed(name)


def _load(checkpoint: Tensors, dtype: torch.dtype | None) -> nn.Module:
    """The network, built and checked by the library that knows it."""
    return (open_clip_network if checkpoint.architecture == OPEN_CLIP else _transformers)(checkpoint, dtype)


def _transformers(checkpoint: Tensors, dtype: torch.dtype | None, *, heads: bool = True) -> nn.Module:
    cls, config = _fitting(checkpoint)
    layout = torch.contiguous_format  # other strides would change the last bits of what the network computes
    tensors = {
        n: t.to(dtype or t.dtype, copy=True, memory_format=layout) for n, t in checkpoint.items() if n != NUMBERS
    }
    with quiet_transformers(), as_a_sentence(cls.__name__):
        network, info = cls.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below
            dtype=dtype or "auto",
            experts_implementation="eager",  # the grouped one knows no float64
        )
    if dtype is torch.float64:
        _widen(network, tensors)
    missing = {name for name in info["missing_keys"] if heads or in_a_block(name)}
    unexpected = {n for n in info["unexpected_keys"] if n not in checkpoint or not is_remnant(n, checkpoint.shape(n))}
    wrong = {"unexpected_keys": unexpected, "mismatched_keys": info["mismatched_keys"], "missing_keys": missing}
    require_fit(cls.__name__, wrong)
    return network.eval()  # type: ignore[no-any-return]


def _widen(network: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Gives parameters that code makes float32 whatever it is asked for (DeBERTa's biases) their whole values."""
    for name, weight in network.named_parameters():
        if weight.dtype is torch.float32:
            bare = name.removeprefix(f"{network.base_model_prefix}.")
            weight.data = tensors.get(name, tensors.get(bare, weight.data)).to(torch.float64)


def initialised(config: Mapping[str, Any], seed: int) -> nn.Module:
    """The network that a config describes, freshly initialised as its library does before training.

    Raises:
        Inapplicable: If the config asks for a network of another form, which says nothing of how it starts.
    """
    if NETWORK in config:
        raise Inapplicable(
            f"The config asks for the network {config[NETWORK]!r} ({NETWORK}), which cannot be initialised; bring it "
            "back to the base's form first."
        )
    if config.get("model_type") == OPEN_CLIP:
        return initialised_open_clip(config, seed)
    cls, settings = known_network(config)
    with torch.random.fork_rng(devices=[]), quiet_transformers(), as_a_sentence(cls.__name__):
        torch.manual_seed(seed)
        return cls(settings)  # type: ignore[no-any-return]


def bare_network(config: Mapping[str, Any]) -> nn.Module:
    """The network that a config describes, without weights (on the device `meta`).

    Raises:
        NotACheckpoint: If transformers knows none.
    """
    return without_weights(*known_network(config)).eval()  # type: ignore[no-any-return]


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a network of transformers or open_clip, under the names that its library saves them by."""
    with tempfile.TemporaryDirectory() as folder:
        held = _saved(module, Path(folder))
        return {name: held.load(name) for name in held.names()}


def drawn_weights(
    config: Mapping[str, Any], seed: int, keep: Callable[[str, torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """As `weights_of` a network that is freshly initialised, which is gone before its weights are read.

    Args:
        config: As of `initialised`.
        seed: As of `initialised`.
        keep: Name and tensor → what is kept of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        held = _saved(initialised(config, seed), Path(folder))
        return {name: keep(name, held.load(name)) for name in held.names()}


def _saved(module: nn.Module, folder: Path) -> Source:
    """The weights as the network's library saves them, which may lie in the folder."""
    from redteam.checkpoint.sources import Files, Memory

    _require_trainable(module)
    if not hasattr(module, "save_pretrained"):
        return Memory({name: tensor.detach() for name, tensor in module.state_dict().items()})
    with quiet_transformers():
        module.save_pretrained(folder, max_shard_size=_SHARD)  # type: ignore[operator]
    return Files.find(folder)


def trained_weights(module: nn.Module, checkpoint: Tensors) -> dict[str, torch.Tensor]:
    """The weights of a network that `build` gave, under the names, in the shapes and dtypes that its checkpoint has."""
    _require_trainable(module)
    return tensors_of(module, checkpoint, _load)


def _require_trainable(module: nn.Module) -> None:
    if getattr(module, NETWORK, False):
        raise Inapplicable(
            "The network has parts of another form than its model type has, and cannot be trained; bring it back to "
            "the base's form first."
        )


def activation_of(checkpoint: Tensors) -> Any:
    """The activation of the MLPs, a function of tensors: the config's, or transformers' default where it names none.

    Raises:
        BadInput: If the config names none that transformers knows.
    """
    from transformers.activations import ACT2FN

    settings = checkpoint.config
    if not any(settings.get(key) for key in ACTIVATIONS):
        settings = completed(settings)
    name = next((settings[key] for key in ACTIVATIONS if settings.get(key)), None)
    if name not in ACT2FN:
        raise BadInput(f"The config names no activation that is known ({name!r}); expected for example 'gelu'.")
    return ACT2FN[name]


def _installed(name: object) -> Any:
    from importlib.metadata import entry_points

    points = list(entry_points(group="redteam.networks", name=str(name)))
    if not points:
        raise NotACheckpoint(
            f"The config asks for the network {name!r} ({NETWORK}), which no installed package builds; install the one "
            "that made the checkpoint."
        )
    return points[0].load()


def _fitting(checkpoint: Tensors) -> tuple[Any, Any]:
    """The class and the config of transformers for a checkpoint, in a size that its weights bear out.

    Raises:
        NotACheckpoint: If transformers knows none, or the config claims far more weights than there are.
    """
    cls, config = known_network(checkpoint.config)
    if better := class_for(checkpoint):
        cls = getattr(sys.modules[cls.__module__], better)
    _plausible(checkpoint, cls, config)
    return cls, config


def _plausible(checkpoint: Tensors, cls: Any, config: Any) -> None:
    """Refuses a config that would take far more memory than the weights have, before it does."""
    claimed = sum(weight.numel() for weight in without_weights(cls, config).parameters())
    found = checkpoint.weights
    if claimed > 8 * found + 1_000_000:  # tied weights are in a file once
        raise NotACheckpoint(
            f"The config describes a {cls.__name__} of {claimed} weights and there are {found}; config and weights "
            "must belong together."
        )
