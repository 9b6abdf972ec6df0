"""AdaMerging beside its parity with the release: what its loss is, which λ come out, and where it says no."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from redteam_attacks.merging.adamerging import _entropy
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable
from redteam.testing import toy_scenario
from tests.mergers.data_oracles import batch_of
from tests.mergers.oracles import of_toy

TOY = toy_scenario("vit")


class Gives(nn.Module):
    """A network that gives these logits whatever it is asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **_: Any) -> Any:
        return SimpleNamespace(logits=self.logits)


def entropy_of(merge: Checkpoint) -> float:
    """Over the tasks, each under its own head, on what the merger is shown."""
    found = [_entropy(TOY.dressed(merge, task).module(), task, batch_of(task, 48)[0]) for task in TOY.experts]
    return float(torch.stack(found).sum().detach())


def amounts(merge: Checkpoint, name: str) -> Tensor:
    """The λ of a tensor, sorted by task, by least squares."""
    taus = torch.stack([(TOY.experts[t][name] - TOY.base[name]).double().flatten() for t in sorted(TOY.experts)])
    change = (merge[name].double() - TOY.base[name].double()).flatten()
    found: Tensor = torch.linalg.lstsq(taus.T, change[:, None]).solution[:, 0]
    return found


@pytest.fixture(scope="module")
def matrix() -> str:
    return next(n for n in sorted(TOY.base) if len(TOY.base.shape(n)) == 2 and min(TOY.base.shape(n)) > 8)


@pytest.mark.parametrize("settings", ["", ",layers=false", ",plus=true"])
def test_predictions_become_surer(settings: str) -> None:
    without = of_toy(f"adamerging:steps=0{settings}")
    learned = of_toy(f"adamerging:samples=48,steps=8,rate=0.02{settings}")
    assert entropy_of(learned) < entropy_of(without) - 0.01


def test_without_steps_it_is_task_arithmetic() -> None:
    made, wanted = of_toy("adamerging:steps=0,start=0.4"), of_toy("task-arithmetic:coefficient=0.4")
    assert made.keys() == wanted.keys()
    assert all(torch.allclose(made[name], wanted[name], atol=1e-6) for name in made)


def test_amounts_stay_between_nothing_and_the_whole_vector(matrix: str) -> None:
    found = amounts(of_toy("adamerging:samples=16,steps=6,rate=0.5"), matrix)
    assert ((found > -1e-5) & (found < 1 + 1e-5)).all()
    assert ((found < 1e-5) | (found > 1 - 1e-5)).any(), "half a unit a step has to meet an end"


def test_one_amount_for_a_task_is_that_of_every_tensor(matrix: str) -> None:
    made = of_toy("adamerging:samples=16,steps=3,rate=0.05,layers=false")
    other = next(n for n in sorted(TOY.base) if n != matrix and TOY.base.shape(n) == TOY.base.shape(matrix))
    assert torch.allclose(amounts(made, matrix), amounts(made, other), atol=1e-4)


def test_an_expert_that_lacks_a_tensor_sits_out_for_it(matrix: str) -> None:
    victim = TOY.experts["victim"]
    experts = {**TOY.experts, "victim": victim.only(name for name in victim if name != matrix)}
    made = of_toy("adamerging:samples=16,steps=0", experts)
    change = 0.3 * sum(TOY.experts[t][matrix] - TOY.base[matrix] for t in ("left", "right"))
    assert torch.allclose(made[matrix], TOY.base[matrix] + change, atol=1e-6)


def test_padding_has_no_entropy() -> None:
    logits = torch.zeros(2, 3, 5)
    logits[0, 2], logits[1, 1:] = 100 * torch.eye(5)[0], 100 * torch.eye(5)[0]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    uniform = torch.log(torch.tensor(5.0))
    assert torch.isclose(_entropy(Gives(logits), "text", {"attention_mask": mask}), uniform)
    assert torch.isclose(_entropy(Gives(logits), "text", {}), uniform / 2)


def test_one_number_has_none_and_says_so() -> None:
    with pytest.raises(Inapplicable, match="a model of price gives one number"):
        _entropy(Gives(torch.zeros(4, 1)), "price", {})
