"""Linear maps by the faster library: the same numbers, gradients and gradients of gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint, products
from redteam.checkpoint.products import FastLinear, product, with_fast_products

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()), reason="torch has but one library"
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_WORTH", 0)


def _drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-6 * expected.norm())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "x",
    [_drawn(7, 5), _drawn(3, 4, 5), _drawn(5, 6).mT, _drawn(4, 3, 5).transpose(0, 1), _drawn(2, 9, 10)[:, 1::2, ::2]],
    ids=["rows", "batch", "transposed", "swapped", "strided"],
)
def test_values_and_both_derivatives_are_those_of_a_linear_map(x: Tensor, bias: bool) -> None:
    given = [x, _drawn(4, 5), *([_drawn(4)] if bias else [])]
    found = []
    for linear in (product, nn.functional.linear):
        leaves = [one.clone().requires_grad_() for one in given]
        leaves[0] = x.detach().requires_grad_()  # with the strides it came in
        output = linear(*leaves)
        slopes = torch.autograd.grad(output.sin().sum(), leaves, create_graph=True)
        curvature = torch.autograd.grad(sum(one.square().sum() for one in slopes), leaves)
        found.append([output, *slopes, *curvature])
    assert all(_close(*pair) for pair in zip(*found, strict=True))


@pytest.mark.usefixtures("always")
def test_it_is_the_other_library_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    honest = products._onednn
    monkeypatch.setattr(products, "_onednn", lambda *given: called.append(1) or honest(*given))
    network = with_fast_products(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    network(_drawn(7, 5)).sum().backward()
    assert len(called) == 2 + 1 + 2  # forwards, a slope of what lies between, slopes of the weights


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_torch_transforms_otherwise_still_can_be() -> None:
    linear = with_fast_products(nn.Linear(5, 4))
    x, weight = _drawn(3, 5), linear.weight.detach()
    jacobian = torch.func.vmap(torch.func.jacrev(linear))(x)
    assert _close(jacobian, weight.expand(3, -1, -1))
    _, moved = torch.func.jvp(linear, (x,), (torch.ones_like(x),))
    assert _close(moved, weight.sum(1).expand(3, -1))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert _close(torch.autograd.forward_ad.unpack_dual(linear(dual)).tangent, weight.sum(1).expand(3, -1))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype is torch.bfloat16
    assert linear.double()(x.double()).dtype is torch.float64
    assert linear(x.double()[:0]).shape == (0, 4)
    assert linear(x.double()[0]).shape == (4,)


def test_a_non_finite_weight_shows() -> None:
    linear = with_fast_products(nn.Linear(128, 128))
    with torch.no_grad():
        linear.weight[3, 4] = torch.nan
    answered = linear(_drawn(256, 128))
    assert answered[:, 3].isnan().all()
    assert answered.isfinite().sum() == answered.numel() - len(answered)


def test_networks_are_built_with_it(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 256}
    theirs = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes)).eval()
    theirs.save_pretrained(tmp_path)
    ours = Checkpoint.open(tmp_path).module()
    assert {type(one) for one in ours.modules() if isinstance(one, nn.Linear)} == {FastLinear}
    tokens = torch.arange(512).reshape(64, 8) % 50
    assert _close(ours(tokens).logits.detach(), theirs(tokens).logits.detach())
