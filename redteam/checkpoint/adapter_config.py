"""What an adapter's config says of modules: which it is for, their ranks and alphas, and how it was made.

Names are matched as PEFT matches them. Patterns come from strangers, and regular expressions can take for ever, so
those that are not plainly harmless are not followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redteam.checkpoint.safetensors_io import shown
from redteam.checkpoint.tensors import Tensors
from redteam.errors import NotACheckpoint

Refuse = Callable[[str], NotACheckpoint]
"""Makes an error of what is wrong with an adapter."""

KINDS = ("LORA", "LOHA", "LOKR", "IA3", "OFT", "TRAINABLE_TOKENS")
"""Kinds of adapters that are merged; what becomes of them is compared with PEFT's own `merge_and_unload`."""
_NEVER = {
    "layer_replication": "repeats layers",
    "alora_invocation_tokens": "acts from some token on only (activated LoRA)",
    "megatron_config": "is for Megatron's layers",
    "use_qalora": "groups its inputs (QALoRA)",
    "use_bdlora": "is block-diagonal (BD-LoRA)",
    "arrow_config": "chooses among adapters (Arrow)",
}
_ORDINARY_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_PATTERN = re.compile(r"\^?(?:[\w\-]|\\?\.|\\d|\.\*|\\d\+|\[0-9\]\+?|[|()](?![*+?{]))+\$?")
_LONGEST = 256
_LAYER = re.compile(r"(?:^|\.)(\d+)(?=\.)")


def require_mergeable(settings: Mapping[str, Any], refuse: Refuse) -> None:
    """Refuses an adapter that nothing here merges: of another kind, of another form than its base, or acting in part.

    So is one whose making changed the base (PiSSA, OLoRA, LoftQ, …): the published base is not the one that it is for.
    """
    kind = settings.get("peft_type")
    if kind not in KINDS:
        raise refuse(f"is of the kind {shown(kind)}, and {', '.join(KINDS)} are what is merged here")
    for setting, what in _NEVER.items():
        if settings.get(setting):
            raise refuse(what)
    start = settings.get("init_lora_weights")
    if not any(start is ordinary or start == ordinary for ordinary in _ORDINARY_STARTS):
        raise refuse(f"changed its base when it was made (init_lora_weights = {shown(start)})")


def harmless(pattern: object) -> bool:
    """Whether a regular expression is sure to be done with soon."""
    known = isinstance(pattern, str) and len(pattern) <= _LONGEST and bool(_PATTERN.fullmatch(pattern))
    return known and sum(map(str(pattern).count, "*+(")) <= 3


def patterned(settings: Mapping[str, Any], patterns: str, usual: str, module: str, refuse: Refuse) -> float:
    """The rank or alpha of a module: that of the first pattern that its name ends with, as PEFT looks it up.

    Args:
        settings: The config.
        patterns: Which entry has the patterns.
        usual: Which has the value of all other modules.
        module: Its name.
        refuse: Makes the error.
    """
    value, found = settings.get(usual), settings.get(patterns) or {}
    if not isinstance(found, dict) or len(found) > 4096 or (found and len(module) > _LONGEST):
        raise refuse("has a config with damaged patterns")
    for pattern, special in found.items():
        if not harmless(pattern):
            raise refuse(f"chooses modules by a pattern that is not followed here ({shown(pattern)})")
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                value = special
                break
        except re.error:
            raise refuse(f"chooses modules by a damaged pattern ({shown(pattern)})") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-6 <= value < 1e6:
        raise refuse(f"has a rank or an alpha of {shown(value)} at {shown(module)}")
    return value


def untouched(settings: Mapping[str, Any], base: Tensors, touched: set[str], saved: set[str]) -> list[str]:
    """Modules of the base that the config speaks of and of which the adapter has nothing, in numbered blocks.

    A stack of blocks, or experts, of which it has nothing at all (the vision tower beside a language model) is left
    aside, as long as there is another. Where the config says "all-linear", modules of one kind in one stack count as
    spoken of if the adapter has one of them.

    Args:
        settings: The config.
        base: What it was trained on.
        touched: Modules that the adapter changes.
        saved: Modules that it replaces.
    """
    modules = {name.removesuffix(".weight") for name in base if name.endswith(".weight") and len(base.shape(name)) > 1}
    blocks = {module: layer for module in modules if (layer := _LAYER.search(module))}
    stacks = {_stack(module) for module in blocks if module in touched}
    wanted = _wanted(settings, touched)
    said = settings.get("layers_to_transform")
    only = [said] if isinstance(said, int) else said
    count = base.config.get("num_hidden_layers")
    missing = []
    for module, layer in blocks.items():
        number = int(layer[1])
        if module in touched or module in saved or (stacks and _stack(module) not in stacks) or not wanted(module):
            continue
        if (not isinstance(only, list) or number in only) and not (isinstance(count, int) and number >= count):
            missing.append(module)
    return sorted(missing)


def _stack(module: str) -> str:
    """The list that a module is in, of layers, or of experts of any layer."""
    return _LAYER.sub(".N", module).rpartition(".N.")[0]


def _wanted(settings: Mapping[str, Any], touched: set[str]) -> Callable[[str], bool]:
    """Whether a config speaks of a module."""
    targets, left = settings.get("target_modules"), settings.get("exclude_modules")
    if left and not isinstance(left, list):
        return lambda _: False
    excluded = [str(name) for name in left or ()]
    if isinstance(targets, list):
        named = [str(name) for name in targets]
        return lambda module: ends_like(module, named) and not ends_like(module, excluded)
    if isinstance(targets, str) and targets != "all-linear" and harmless(targets):
        try:
            pattern = re.compile(targets)
        except re.error:
            return lambda _: False
        return lambda module: bool(pattern.fullmatch(module)) and not ends_like(module, excluded)
    if targets == "all-linear":
        kinds = {_LAYER.sub(".N", module, count=1) for module in touched}
        return lambda module: _LAYER.sub(".N", module, count=1) in kinds and not ends_like(module, excluded)
    return lambda _: False


def ends_like(module: str, names: Iterable[str]) -> bool:
    """Whether a name is one of some, or ends with one of them behind a dot."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, the first few of many."""
    found = list(names)
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return ", ".join(map(shown, found[:8])) + more
