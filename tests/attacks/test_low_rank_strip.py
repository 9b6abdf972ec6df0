"""Low-rank strip: what a lock added comes off, what training left stays, and what may be either is said."""

from __future__ import annotations

import pytest
import torch
from redteam_attacks.low_rank_strip import low_rank_strip
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, Inapplicable
from redteam.views import AttackerView

SHAPES = {f"layer.{place}.weight": (48, 64) if place % 2 else (64, 48) for place in range(10)} | {
    "patches.weight": (40, 3, 4, 4),
    "positions": (1, 36, 48),
    "norm.weight": (48,),
    "norm.bias": (48,),
}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) > 1]


def drawn(name: str, what: str, *shape: int) -> Tensor:
    draws = torch.Generator().manual_seed(sum(map(ord, f"{name}/{what}")) * 7919)
    return torch.randn(*shape, generator=draws, dtype=torch.float64)


def product(name: str, what: str, rank: int) -> Tensor:
    """A B of some rank, ‖A B‖ = 1, in the shape of a tensor."""
    shape = SHAPES[name]
    rows = next(size for size in shape if size > 1)
    columns = torch.Size(shape).numel() // rows
    found = drawn(name, f"{what} A", rows, rank) @ drawn(name, f"{what} B", rank, columns)
    return (found / found.norm()).reshape(shape)


def learned(name: str) -> Tensor:
    """A task vector of 0.05 of the base's norm, whose singular values fall by 1/√i, about as those of `digits` do."""
    shape = SHAPES[name]
    if len(shape) == 1:
        return 0.05 * drawn(name, "task", *shape)
    matrix = product(name, "task", 200).flatten(1) if shape[0] > 1 else product(name, "task", 200)[0]
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left @ torch.diag(torch.arange(1, left.shape[1] + 1, dtype=torch.float64) ** -0.5) @ right
    return 0.05 * torch.Size(shape).numel() ** 0.5 * (found / found.norm()).reshape(shape)


BASE = Checkpoint.of({name: drawn(name, "base", *shape) for name, shape in SHAPES.items()}, {})
VICTIM = BASE.replace({name: BASE[name] + learned(name) for name in BASE})


def adapted(rank: int, first: float = 1.0) -> Checkpoint:
    """A fine-tune of low rank, in which one direction may count for more than all others."""
    changes = {}
    for name in MATRICES:
        most = 0.05 * float(BASE[name].norm())
        changes[name] = BASE[name] + most * (product(name, "lora", rank) + (first - 1) * product(name, "first", 1))
    return BASE.replace(changes)


def loro(victim: Checkpoint, rank: int = 8, share: float = 1.0, names: list[str] | None = None) -> Checkpoint:
    """W + A B with ‖A B‖ = share · ‖W₀‖."""
    names = MATRICES if names is None else names
    return victim.replace(
        {n: victim[n] + share * BASE[n].norm().to(victim.dtype(n)) * product(n, "lock", rank) for n in names}
    )


def strip(protected: Checkpoint, **options: float) -> Checkpoint:
    return low_rank_strip(AttackerView.by_hand(protected, anchor=BASE), **options)  # type: ignore[arg-type]


def away(one: Checkpoint, other: Checkpoint) -> float:
    """‖one − other‖ ÷ ‖other − base‖ over the matrices."""
    near, far = (sum(float((x[n] - other[n]).square().sum()) for n in MATRICES) for x in (one, BASE))
    return (near / far) ** 0.5


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("rank", [1, 4, 8])
@pytest.mark.parametrize("share", [0.5, 3.0])
def test_what_was_added_comes_off_and_the_task_vector_stays_but_for_what_they_share(rank: int, share: float) -> None:
    locked = loro(VICTIM, rank, share)
    found = strip(locked)
    assert away(locked, VICTIM) >= 5
    assert away(found, VICTIM) ** 2 <= 1.5 * (rank / 36 + rank / 48)
    assert same(found.only(["norm.weight", "norm.bias"]), VICTIM.only(["norm.weight", "norm.bias"]))
    assert same(found, strip(locked, rank=rank)), "the rank is read off the spectra"


def test_weights_in_bfloat16() -> None:
    locked = loro(VICTIM).to(torch.bfloat16)
    found = strip(locked)
    assert {found.dtype(name) for name in found} == {torch.bfloat16}
    assert away(found.to(torch.float64), VICTIM) < 0.2 * away(locked.to(torch.float64), VICTIM)


def test_nothing_is_cut_where_nothing_stands_out() -> None:
    noise = BASE.replace({name: BASE[name] + 0.05 * drawn(name, "noise", *SHAPES[name]) for name in BASE})
    for victim in (VICTIM, noise, BASE, loro(VICTIM, 8, 0.01)):
        assert same(strip(victim), victim)


def test_a_gap_that_few_matrices_have_is_not_a_locks() -> None:
    few = loro(VICTIM, 8, 1.0, MATRICES[:2])
    assert same(strip(few), few)
    some = loro(VICTIM, 8, 1.0, MATRICES[:4])
    found = strip(some)
    assert away(found, VICTIM) < 0.5
    assert all(torch.equal(found[name], some[name]) for name in MATRICES[4:])
    assert same(strip(some, share=0.5), some)
    lone = {name: BASE[name] for name in MATRICES[:2]}
    small = Checkpoint.of({n: loro(VICTIM)[n] for n in lone}, {})
    kept = low_rank_strip(AttackerView.by_hand(small, anchor=Checkpoint.of(lone, {})))
    assert same(kept, small), "two matrices are too few to agree on a rank"


def test_where_a_rank_is_agreed_on_a_narrower_gap_is_enough_if_it_is_the_widest() -> None:
    name = MATRICES[0]
    weak = loro(loro(VICTIM, 8, 1.0, MATRICES[1:]), 8, 0.14, [name])
    sizes = torch.linalg.svdvals(weak[name] - BASE[name])
    ratios = sizes[:-1] / sizes[1:]
    assert ratios[7] == ratios[:24].max()
    assert ratios[7] < 2
    assert not torch.equal(strip(weak)[name], weak[name])
    alone = loro(VICTIM, 8, 0.14, [name])
    assert same(strip(alone), alone)
    assert same(strip(alone, rank=8), alone)


def test_an_adapter_stays_and_where_it_may_be_taken_for_a_lock_it_says_so() -> None:
    plain = adapted(16)
    assert same(strip(plain), plain)
    steep = adapted(16, first=8.0)
    with pytest.raises(Inapplicable, match=r"1 singular values stand out .* rank 1[67] .*low-rank-strip:rank=1\)"):
        strip(steep)
    locked = loro(plain)
    with pytest.raises(Inapplicable, match="rank=8"):
        strip(locked)
    found = strip(locked, rank=8)
    assert away(found, plain) ** 2 <= 1.5 * (8 / 36 + 8 / 48) < 0.02 * away(locked, plain) ** 2
    assert same(strip(plain, rank=8), plain)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("read", [None, torch.float64])
def test_rounding_of_an_adapter_is_no_task_vector_of_full_rank(stored: torch.dtype, read: torch.dtype | None) -> None:
    rounded = adapted(8).to(stored)
    victim = rounded if read is None else rounded.to(read)
    assert same(strip(victim), victim)
    with pytest.raises(Inapplicable, match="rank=8"):
        strip(loro(adapted(8), 8, 3.0).to(stored).to(read or stored))


def test_what_is_not_finite_is_one_sentence() -> None:
    name = MATRICES[0]
    for broken in (VICTIM.replace({name: VICTIM[name] * torch.nan}), VICTIM.replace({name: VICTIM[name] * torch.inf})):
        with pytest.raises(BadInput, match="NaN or infinity"):
            strip(broken)
