"""MDM-OC against Gram–Schmidt written out on flat vectors, and what can be taken out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from redteam_attacks.merging.mdm_oc import orthogonal
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.registry import MERGERS
from redteam.views import MergerView
from tests.mergers.whole_oracles import gram_schmidt

View = Callable[..., MergerView]
Experts = Mapping[str, Checkpoint]


def flat(one: Checkpoint, base: Checkpoint) -> Tensor:
    return torch.cat([(one[name].double() - base[name].double()).reshape(-1) for name in sorted(base)])


def moved(text: str, view: View, base: Checkpoint, experts: Experts) -> Tensor:
    return flat(MERGERS.load(text)(view(experts)), base)


@pytest.mark.parametrize(
    ("first", "order"), [("", ("left", "right", "victim")), (",first=[victim]", ("victim", "left", "right"))]
)
def test_it_is_gram_schmidt_over_the_whole_model(
    view: View, base: Checkpoint, experts: Experts, first: str, order: Sequence[str]
) -> None:
    parts = gram_schmidt([flat(experts[task], base) for task in order])
    assert abs(parts[0] @ parts[2]) < 1e-9 * parts[0].norm() * parts[2].norm()
    found = moved(f"mdm-oc:coefficient=0.5{first}", view, base, experts)
    torch.testing.assert_close(found, 0.5 * sum(parts), rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]


def test_who_is_taken_out_leaves_the_others_as_they_were(view: View, base: Checkpoint, experts: Experts) -> None:
    left, _, victim = gram_schmidt([flat(experts[task], base) for task in ("left", "right", "victim")])
    found = moved("mdm-oc:coefficient=1,without=[right]", view, base, experts)
    torch.testing.assert_close(found, left + victim, rtol=1e-6, atol=1e-6)
    last = moved("mdm-oc:coefficient=1,without=[victim]", view, base, experts)
    never = moved("mdm-oc:coefficient=1", view, base, {task: experts[task] for task in ("left", "right")})
    torch.testing.assert_close(last, never, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(last, moved("mdm-oc:coefficient=1,first=[victim],without=[victim]", view, base, experts))


def test_what_is_in_the_span_of_others_adds_nothing_and_spoils_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 50, generator=draws).double()
    vectors = torch.stack([one, 2 * one, torch.zeros(50).double(), other, one - other])
    parts = orthogonal(vectors @ vectors.T) @ vectors
    assert torch.allclose(parts[[1, 2, 4]], torch.zeros(3, 50).double(), atol=1e-9)
    assert abs(parts[0] @ parts[3]) < 1e-9
    assert torch.allclose(parts[3], other - (other @ one) / (one @ one) * one)
