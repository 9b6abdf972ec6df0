"""What experts may have wrong with them: the right result, or one sentence that says whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.plugins.registry import MERGERS
from redteam.plugins.settings import settings_of
from tests.mergers.oracles import DATALESS, TAKES, merged

PAIRS = ("slerp", "nuslerp")
"""Of two experts; where one sits out, the tensor is the other's."""

WHOLE = ("ties", "ramplus", "emr", "smile", "mdm-oc", "knots")
"""Those that look at all of a task vector first."""


def drawn(*, dtype: torch.dtype = torch.float32) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    draws = np.random.default_rng(3)

    def tensors(size: float, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: (t.double() + size * torch.from_numpy(draws.standard_normal(t.shape))).to(dtype)
            for n, t in start.items()
        }

    zeros = {"a": torch.zeros(6, 5), "b": torch.zeros(7), "c": torch.zeros(5, 6)}
    base = tensors(1.0, zeros)
    experts = {task: Checkpoint.of(tensors(0.3, base), {}) for task in ("left", "right", "victim")}
    return Checkpoint.of(base, {}), experts


def counts(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    draws = np.random.default_rng(seed)
    return checkpoint.replace(
        {
            "steps": torch.tensor(int(draws.integers(1, 1000))),
            "positions": torch.from_numpy(draws.integers(0, 99, (3, 4))),
            "mask": torch.from_numpy(draws.random(8) < 0.5),
        }
    )


@pytest.mark.parametrize("name", DATALESS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_expert_with_nan_is_named(name: str, bad: float) -> None:
    base, experts = drawn()
    broken = experts["left"]["a"].clone()
    broken[2, 3] = bad
    made_of = {**experts, "left": experts["left"].replace({"a": broken})}
    with pytest.raises(BadInput, match="The expert left holds NaN or infinity in 'a'"):
        merged(name, base, made_of)["a"]
    if name not in WHOLE:
        assert torch.equal(merged(name, base, made_of)["b"], merged(name, base, experts)["b"])


@pytest.mark.parametrize("name", DATALESS)
def test_an_expert_without_a_tensor_sits_out_for_it(name: str) -> None:
    base, experts = drawn()
    short = experts["left"].only(["a", "b"])
    made = merged(name, base, {**experts, "left": short})
    if TAKES.get(name) == 1:
        assert torch.equal(made["c"], base["c"])
    elif name in PAIRS:
        assert torch.equal(made["c"], experts["right"]["c"])
    elif name == "mdm-oc":  # what the others keep of it depends on all of its vector
        assert made["c"].isfinite().all()
    else:
        others = {task: expert for task, expert in experts.items() if task != "left"}
        assert torch.equal(made["c"], merged(name, base, others)["c"])
    if name not in WHOLE:
        assert torch.equal(made["a"], merged(name, base, experts)["a"])


@pytest.mark.parametrize("name", DATALESS)
def test_whole_numbers_are_copied_and_never_averaged(name: str) -> None:
    base, experts = drawn()
    counted = {task: counts(expert, seed) for seed, (task, expert) in enumerate(experts.items())}
    made = merged(name, counts(base, 9), counted)
    assert set(made) <= {"a", "b", "c", "steps", "positions", "mask"}
    for kept in {"steps", "positions", "mask"} & set(made):
        assert torch.equal(made[kept], counts(base, 9)[kept])
        assert made.dtype(kept) == counts(base, 9).dtype(kept)
    assert torch.equal(made["a"], merged(name, base, experts)["a"])


@pytest.mark.parametrize("name", DATALESS)
def test_weights_stored_as_whole_numbers_are_not_merged_as_if_they_were_weights(name: str) -> None:
    base, experts = drawn()
    stored = experts["left"].replace({"c": (experts["left"]["c"] * 100).to(torch.int8)})
    without = experts["left"].only(["a", "b"])
    made, wanted = (merged(name, base, {**experts, "left": one}) for one in (stored, without))
    assert torch.equal(made["c"], wanted["c"])


@pytest.mark.parametrize("name", DATALESS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_copies_of_one_expert_merge_into_finite_numbers_in_its_dtype(name: str, dtype: torch.dtype) -> None:
    base, experts = drawn(dtype=dtype)
    made = merged(name, base, dict.fromkeys(experts, experts["left"]))
    for tensor in base:
        assert made[tensor].dtype == dtype
        assert made[tensor].isfinite().all()
    if "identical" in MERGERS.load(name).spec.holds:
        assert all(torch.equal(made[tensor], experts["left"][tensor]) for tensor in base)


@pytest.mark.parametrize("name", DATALESS)
def test_experts_of_another_base_are_one_sentence(name: str) -> None:
    base, experts = drawn()
    others = {task: Checkpoint.of({f"x.{n}": t for n, t in expert.items()}, {}) for task, expert in experts.items()}
    with pytest.raises(BadInput, match=r"There is nothing to merge: no expert \(left"):
        merged(name, base, others)


@pytest.mark.parametrize("name", DATALESS)
@pytest.mark.parametrize(
    ("setting", "value"), [("density", "0.0"), ("weights", "[[left,0.0],[right,0.0]]"), ("rank", "0.0")]
)
def test_nothing_to_count_is_one_sentence(name: str, setting: str, value: str) -> None:
    if setting not in settings_of(MERGERS.load(name).function):
        return
    with pytest.raises(BadInput, match=rf"{setting} of {name} must .* got 0"):
        MERGERS.load(f"{name}:{setting}={value}")
