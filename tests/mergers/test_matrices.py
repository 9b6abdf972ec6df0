"""Mergers that take a matrix as a matrix: what a solver may choose must not show, and no long side is squared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from redteam_attacks.merging.spectra import flattened, leading, truncated, whitened
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from redteam.checkpoint import Checkpoint
from redteam.plugins.registry import MERGERS
from redteam.views import MergerView
from tests.mergers.conftest import watched
from tests.mergers.oracles import merged

View = Callable[..., MergerView]
EACH = ("tsv-m", "iso-c", "iso-cts", "wudi", "actmerge", "cart")
ADAPTERS = ("peft", "core-space", "knots:combination=dare_ties")
SAME_SIDES = ("tsv-m", "iso-c", "cart")
"""Those to which it makes no difference which side of a matrix is which."""


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def low_rank(seed: int, rows: int, columns: int, rank: int) -> Tensor:
    return drawn(seed, rows, rank) @ drawn(seed + 100, rank, columns)


def one(tensor: Tensor) -> Checkpoint:
    return Checkpoint.of({"a": tensor}, {})


def experts(base: Tensor, *taus: Tensor) -> dict[str, Checkpoint]:
    return {f"e{i}": one(base + tau) for i, tau in enumerate(taus)}


def change(text: str, base: Tensor, *taus: Tensor) -> Tensor:
    return merged(text, one(base), experts(base, *taus))["a"] - base


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (9, 9)])
def test_spectra_are_those_of_a_solver(shape: tuple[int, int]) -> None:
    matrix = drawn(0, *shape)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    left, size, right = leading(matrix, 4)
    assert torch.allclose(size, s[:4])
    kept = (u[:, :4] * s[:4]) @ v[:4]
    assert torch.allclose((left * size) @ right.mT, kept)
    assert torch.allclose(left.mT @ left, torch.eye(4, dtype=torch.float64))
    assert torch.allclose(right.mT @ right, torch.eye(4, dtype=torch.float64))
    assert torch.allclose(truncated(matrix, 4), kept)
    assert torch.allclose(flattened(matrix), s.mean() * u @ v)


def test_what_is_zero_within_rounding_is_left_out() -> None:
    matrix = low_rank(0, 30, 12, 3)
    left, _, right = leading(matrix, 8)
    assert left.shape == (30, 3)
    assert right.shape == (12, 3)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(flattened(matrix), s.sum() / 12 * u[:, :3] @ v[:3])
    assert not flattened(torch.zeros(4, 3, dtype=torch.float64)).any()
    assert leading(torch.zeros(4, 3, dtype=torch.float64), 2)[1].shape == (0,)


def test_signs_and_copies_of_vectors_do_not_matter() -> None:
    (left, _), (right, _) = torch.linalg.qr(drawn(0, 9, 4)), torch.linalg.qr(drawn(1, 8, 4))
    size, signs = torch.tensor([4.0, 3.0, 2.0, 1.0]).double(), torch.tensor([1.0, -1.0, -1.0, 1.0]).double()
    mixed = left @ drawn(2, 4, 4), right @ drawn(3, 4, 4)
    assert torch.allclose(whitened(mixed[0], size, mixed[1]), whitened(mixed[0] * signs, size, mixed[1] * signs))
    twice = whitened(torch.cat([left, left], 1), torch.cat([size, size]), torch.cat([right, right], 1))
    assert torch.allclose(twice, (left * size) @ right.mT)
    assert torch.allclose(whitened(left, size, right), (left * size) @ right.mT), "what is orthogonal stays"


@pytest.mark.parametrize("text", [*EACH, *ADAPTERS])
@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_adapters_merge_alike_whatever_the_solver_finds(text: str, shape: tuple[int, int]) -> None:
    """Task vectors of a rank below what each may keep: rounding them anew moves nothing but rounding."""
    base, taus = drawn(0, *shape), [low_rank(seed, *shape, 2) for seed in (1, 2, 3)]
    made = change(text, base, *taus)
    again = change(text, base, *(tau * (1 + 1e-13 * drawn(9, *shape)) for tau in taus))
    assert made.isfinite().all()
    assert (made - again).abs().max() < 1e-6 * made.abs().max()
    assert made.abs().max() > 0.01


@pytest.mark.parametrize("text", SAME_SIDES)
def test_which_side_is_which_makes_no_difference(text: str) -> None:
    base, taus = drawn(0, 15, 8), [drawn(seed, 15, 8) for seed in (1, 2, 3)]
    assert torch.allclose(change(text, base, *taus), change(text, base.mT, *(tau.mT for tau in taus)).mT)


@pytest.mark.parametrize("text", [*EACH, *ADAPTERS])
def test_a_task_vector_of_zeros_makes_no_nan(text: str) -> None:
    base, tau = drawn(0, 9, 6), drawn(1, 9, 6)
    made = change(text, base, tau, torch.zeros_like(tau), torch.zeros_like(tau))
    assert made.isfinite().all()
    assert made.abs().max() > 0.01
    assert torch.allclose(change(text, base, *[torch.zeros_like(tau)] * 3), torch.zeros_like(tau), atol=1e-12)


@pytest.mark.parametrize("text", ["tsv-m", "wudi:ridge=1e-9", "actmerge", "cart"])
def test_one_expert_is_merged_into_itself(text: str) -> None:
    """As far as what its smallest singular values, which are large here, allow."""
    base, tau = drawn(0, 9, 6), drawn(1, 9, 6)
    assert torch.allclose(change(text, base, tau), tau, rtol=1e-5)


def test_orthogonal_task_vectors_are_added_by_those_that_look_for_interference() -> None:
    """Rows and columns of their own: nothing disturbs, so that all of each expert is kept."""
    base = drawn(0, 12, 12)
    taus = [torch.zeros(12, 12, dtype=torch.float64) for _ in range(3)]
    for place, tau in enumerate(taus):
        block = slice(4 * place, 4 * place + 4)
        tau[block, block] = drawn(place + 1, 4, 4) + 3 * torch.eye(4)
    for text in ("tsv-m", "wudi:ridge=1e-9", "actmerge"):
        assert torch.allclose(change(text, base, *taus), sum(taus), rtol=1e-5, atol=1e-5), text  # type: ignore[arg-type]


def test_cart_of_two_is_their_mean() -> None:
    base, taus = drawn(0, 9, 6), (drawn(1, 9, 6), drawn(2, 9, 6))
    assert torch.allclose(change("cart:coefficient=2.0", base, *taus), sum(taus) / 2)  # type: ignore[arg-type]


def test_wudi_is_where_its_loss_is_least() -> None:
    base, taus = drawn(0, 9, 6), [drawn(seed, 9, 6) for seed in (1, 2, 3)]
    point = change("wudi:ridge=1e-14", base, *taus).requires_grad_()
    loss = sum((((point - tau) @ tau.mT).square() / tau.square().sum()).sum() for tau in taus)
    gradient: Tensor = torch.autograd.grad(loss, point)[0]  # type: ignore[arg-type]
    assert gradient.abs().max() < 1e-9


def test_wudis_release_ends_nearer_to_its_ridge_than_to_none() -> None:
    """get_redundant_task_vector, its steps as long beside these task vectors as theirs are beside CLIP's (3e-4)."""
    base = drawn(0, 48, 32)
    taus = [drawn(seed, 48, 32) / (1 + torch.arange(32)) for seed in (1, 2, 3)]
    point = torch.stack(taus).sum(0).requires_grad_()
    steps = torch.optim.Adam([point], lr=1e-5 * float(torch.stack(taus).abs().mean()) / 3e-4)
    for _ in range(300):
        loss = sum((((point - tau) @ tau.mT).square() / tau.square().sum()).sum() for tau in taus)
        steps.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        steps.step()
    near, far = ((change(f"wudi:ridge={ridge}", base, *taus) - point).norm() for ridge in ("1e-2", "1e-8"))
    assert far > 2 * near


@pytest.mark.parametrize("text", ["tsv-m", "iso-c", "iso-cts", "wudi", "actmerge"])
def test_what_is_no_matrix_is_averaged(text: str) -> None:
    for shape in ((5,), (), (3, 2, 2), (2, 9), (9, 2)):  # the last two have fewer rows or columns than experts
        base, taus = drawn(0, *shape), [drawn(seed, *shape) for seed in (1, 2, 3)]
        assert torch.allclose(change(text, base, *taus), sum(taus) / 3), shape  # type: ignore[arg-type]


def test_actmerge_averages_long_tables() -> None:
    base, taus = drawn(0, 30, 6), [drawn(seed, 30, 6) for seed in (1, 2, 3)]
    assert torch.allclose(change("actmerge:longest=30", base, *taus), sum(taus) / 3)  # type: ignore[arg-type]
    assert not torch.allclose(change("actmerge:longest=31", base, *taus), sum(taus) / 3)  # type: ignore[arg-type]


@contextmanager
def largest() -> Iterator[list[int]]:
    """How many numbers the largest tensor has that is made meanwhile."""
    found = [0]

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            found[0] = max([found[0], *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
            return out

    with Watched():
        yield found


@pytest.mark.parametrize("text", [*EACH, *ADAPTERS])
@pytest.mark.parametrize("shape", [(3000, 8), (8, 3000)])
def test_no_long_side_is_squared(text: str, shape: tuple[int, int]) -> None:
    """A table of 150 000 tokens by itself would take 180 GB."""
    base, taus = drawn(0, *shape), [drawn(seed, *shape) for seed in (1, 2, 3)]
    given, start = experts(base, *taus), one(base)
    with largest() as numbers:
        merged(text, start, given)["a"]
    assert numbers[0] <= 3 * base.numel()


@pytest.mark.parametrize("text", [*EACH, *ADAPTERS])
def test_nothing_is_computed_before_it_is_read_and_then_that_tensor_alone(text: str, view: View) -> None:
    read: list[str] = []

    def made_of(seed: int) -> Checkpoint:
        return watched(Checkpoint.of({name: drawn(seed + ord(name), 6, 5).float() for name in "ab"}, {}), read)

    plugin = MERGERS.load(text)
    made = plugin(view({f"e{i}": made_of(i) for i in range(3)}, base=made_of(9), needs_base=plugin.spec.needs_base))
    assert not read
    assert made["a"].dtype == torch.float32
    assert set(read) == {"a"}


def test_a_mask_of_infinities_stays(view: View) -> None:
    mask: Mapping[str, Tensor] = {"mask": torch.full((4, 4), -torch.inf).triu(1), "a": torch.ones(4, 4)}
    base = Checkpoint.of(mask, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in (*EACH, *ADAPTERS, "knots"):
            plugin = MERGERS.load(text)
            made = plugin(view(dict.fromkeys("xyz", base), base=base, needs_base=plugin.spec.needs_base))
            assert torch.equal(made["mask"], mask["mask"]), text
