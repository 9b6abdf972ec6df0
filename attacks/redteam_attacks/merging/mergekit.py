"""mergekit itself, by any of its methods: what most free-riders merge with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, Inapplicable
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import Weights, onto_base

if TYPE_CHECKING:
    from mergekit.merge_methods import MergeMethod

Value = bool | int | float
Parameters = tuple[tuple[str, Value] | tuple[str, str, Value], ...]
BASE = ("base",)
"""The base among the experts, whose ids are texts."""


@merger(
    "mergekit",
    tunable="coefficient",
    holds={"order", "permutation", "rotation", "still"},
    paper="Goddard et al., Arcee's MergeKit, arXiv:2403.13257; github.com/arcee-ai/mergekit, 0.1.5",
)
def mergekit(
    view: MergerView,
    *,
    method: str = "task_arithmetic",
    parameters: Parameters = (),
    weights: Weights = (),
    base_model: str = "",
    dtype: Literal["own", "float32", "bfloat16", "float16"] = "own",
    coefficient: Annotated[float, Range(0.05, 3.0)] = 1.0,
) -> Checkpoint:
    """What the installed mergekit makes of each tensor, by its own functions (`mergekit.merge_methods.merge_tensors`).

    Methods of 0.1.5: `linear`, `slerp`, `nuslerp`, `multislerp`, `karcher`, `task_arithmetic`, `ties`, `dare_linear`,
    `dare_ties`, `breadcrumbs`, `breadcrumbs_ties`, `della`, `della_linear`, `model_stock`, `sce`, `arcee_fusion`,
    `nearswap`, `ram`, `ramplus_tl`, `passthrough`, with its parameters and defaults. The base is given to all that take
    one, `nuslerp` and `multislerp` too, which then merge task vectors.

    What is drawn depends on the tensor's name and on which experts hold it. Where too few hold a tensor for the method,
    it stays the base's. mergekit's files, tokenizers and checks of architectures are not passed through: it gets
    tensors, of one name at a time.

    Args:
        view: The experts and the base.
        method: As mergekit calls it.
        parameters: Pairs of a parameter's name and its value, as in `parameters=[[density,0.5],[int8_mask,true]]`, or a
            name, a task and the value for it, as in `[[density,left,0.3]]`; what is said of a task goes first.
        weights: mergekit's `weight` by task, 1 where none is given and `parameters` has none either.
        base_model: The task whose expert takes the base's place, as where people merge one model into another; the base
            itself by default, or where a method takes two models in all and there are two experts (`slerp`), the
            expert that is first by name.
        dtype: In which mergekit computes; `own` is that of the tensors, as without `dtype` in its files.
        coefficient: mergekit's `lambda`. Methods that have none are left as they are; say one to have nothing tuned.

    Raises:
        BadInput: If mergekit is not installed, or does not know the method or a parameter.
        Inapplicable: If the method takes another number of models.
    """
    found = _method(method)
    base_task = _base_task(view, found, base_model)
    base = view.base if base_task is None else view.experts[base_task]
    takes_base = found.spec.contract.base.value in ("required", "optional")
    base_id = (BASE if base_task is None else base_task) if takes_base else None

    def inputs(tasks: Iterable[str]) -> list[str | tuple[str, ...]]:
        return [*([BASE] if base_id == BASE else []), *tasks]

    try:
        found.validate_inputs(inputs(view.experts), base_id)
    except ValueError as error:
        raise Inapplicable(
            f"mergekit's {method} does not take {len(view.experts)} experts ({', '.join(sorted(view.experts))}): "
            f"{_said(error)}; take more or fewer, name one of them as base_model, or take another method."
        ) from None
    known = _Given(found, parameters, weights, coefficient)
    known.values(inputs(view.experts), base_id)  # what is missing or wrong is told before anything is merged

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        ids = inputs(experts)
        start = view.base[name]
        if not start.numel():
            return start
        try:
            found.validate_inputs(ids, base_id)
        except ValueError:
            return start
        tensors = [(base if one == BASE else experts[str(one)])[name].reshape(start.shape or (1,)) for one in ids]
        if any(tensor.dtype.itemsize == 1 for tensor in tensors):
            tensors = [tensor.float() for tensor in tensors]  # torch promotes no float of 8 bits
        with torch.random.fork_rng([start.device] if start.is_cuda else []):
            torch.manual_seed(int(view.generator(name).integers(2**63)))
            merged = _merged(found, tensors, ids, base_id, known.values(ids, base_id), name, dtype)
        return merged.to(start.dtype).reshape(start.shape)

    return onto_base(view, merge)


def _method(name: str) -> MergeMethod:
    try:
        from mergekit import merge_methods

        methods = {one.spec.name: one for one in merge_methods.registered_methods()}
    except (ImportError, AttributeError):  # before 0.1.5 it had no functions for tensors in memory
        raise BadInput(
            "The merger mergekit needs mergekit 0.1.5 or later, which is not installed; "
            "pip install 'merge-redteam[mergekit]'."
        ) from None
    if name not in methods:
        raise BadInput(f"mergekit has no method {name!r}; it has {', '.join(sorted(methods))}.")
    return methods[name]


def _base_task(view: MergerView, method: MergeMethod, asked: str) -> str | None:
    """The task whose expert stands where mergekit wants a base, `None` for the base itself."""
    contract = method.spec.contract
    if asked:
        if asked not in view.experts:
            raise BadInput(
                f"base_model of mergekit names no expert: {asked!r}; the experts are {', '.join(sorted(view.experts))}."
            )
        if contract.base.value not in ("required", "optional"):
            raise BadInput(f"mergekit's {method.spec.name} takes no base; leave base_model out.")
        return asked
    pair = contract.base.value == "required" and contract.max_inputs == 2
    return min(view.experts) if pair and len(view.experts) == 2 else None


class _Given:
    """What the user said of a method's parameters, by input.

    Raises:
        BadInput: If the method has no such parameter, or not one for each model.
    """

    def __init__(self, method: MergeMethod, parameters: Parameters, weights: Weights, coefficient: float) -> None:
        self._method = method
        self._known = {one.name: one for one in method.spec.parameters}
        self._by_task: dict[str, dict[Any, Value]] = {name: {} for name in self._known}
        self._for_all: dict[str, Value] = {"weight": 1.0, "lambda": coefficient}
        for given in parameters:
            name, value = given[0], given[-1]
            self._require(name, by_task=len(given) == 3)
            if name == "lambda":
                raise BadInput("mergekit's lambda is the setting coefficient here; write mergekit:coefficient=….")
            if len(given) == 3:
                self._by_task[name][given[1]] = value
            else:
                self._for_all[name] = value
        if weights:
            self._require("weight", by_task=True)
            self._by_task["weight"].update(weights)

    def values(self, ids: Iterable[Any], base: Any) -> Mapping[str, Any]:
        """What mergekit is to be given for some inputs, each value held to its type.

        Raises:
            BadInput: If a value is missing or of another type.
        """
        values: dict[str, Any] = {}
        for name, parameter in self._known.items():
            default = self._for_all.get(name, None if parameter.required else parameter.default)
            if parameter.scope.value == "shared":
                values[name] = self._held(parameter, default)
                continue
            whose = [one for one in ids if one != base or parameter.scope.value == "input"]
            values[name] = {one: self._held(parameter, self._by_task[name].get(one, default)) for one in whose}
        return values

    def _require(self, name: str, *, by_task: bool) -> None:
        if name not in self._known:
            has = ", ".join(sorted(self._known)) or "none"
            raise BadInput(f"mergekit's {self._method.spec.name} has no parameter {name!r}; it has {has}.")
        if by_task and self._known[name].scope.value == "shared":
            raise BadInput(f"{name} of mergekit's {self._method.spec.name} is one for all models; write [[{name},…]].")

    def _held(self, parameter: Any, value: Value | None) -> Any:
        owner, name = self._method.spec.name, parameter.name
        if value is None and parameter.required:
            raise BadInput(
                f"mergekit's {owner} needs a value for {name}; write 'mergekit:method={owner},parameters=[[{name},…]]'."
            )
        try:
            return parameter.validate(value)
        except ValueError:
            raise BadInput(
                f"mergekit takes no {value!r} for {name} of its method {owner}; give another value."
            ) from None


def _merged(
    method: MergeMethod,
    tensors: list[Tensor],
    ids: list[Any],
    base: Any,
    values: Mapping[str, Any],
    name: str,
    dtype: str,
) -> Tensor:
    from mergekit.merge_methods import merge_tensors

    try:
        merged: Tensor = merge_tensors(
            tensors,
            method,
            parameters=values,
            ids=ids,
            base_index=None if base is None else ids.index(base),
            name=name,
            dtype=None if dtype == "own" else getattr(torch, dtype),
        )
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise BadInput(
            f"mergekit's {method.spec.name} cannot merge {name!r}: {_said(error)}; change its parameters or the method."
        ) from error
    return merged


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
