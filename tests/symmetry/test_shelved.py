"""Numbers on disk: they come back as they were, and comparisons are those of whole tensors."""

import math

import pytest
import torch

from redteam.symmetry.running import Ran
from redteam.symmetry.shelved import Shelved, largest, largest_difference, pieces, shelved


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of seven numbers."""
    monkeypatch.setattr("redteam.symmetry.shelved._PIECE", 7)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8,), (3, 5), (2, 3, 7), (4, 1, 4)])
def test_numbers_come_back(shape: tuple[int, ...]) -> None:
    x = drawn(*shape).transpose(0, -1)
    kept = shelved(x)
    assert isinstance(kept, Shelved)
    assert torch.equal(torch.cat(list(pieces(kept))), x.reshape(-1))


def test_what_is_small_stays() -> None:
    x = drawn(7)
    assert shelved(x) is x


def test_comparisons_are_those_of_whole_tensors() -> None:
    x, y = drawn(3, 5), drawn(3, 5, seed=1)
    assert largest(Shelved(x)) == float(x.abs().max())
    assert largest_difference(x, Shelved(y)) == float((x - y).abs().max())
    whole, kept = Ran((x, x[0]), ()), Ran((y, y[0]), ())
    assert whole.change(kept) == whole.change(kept.shelved())
    assert kept.shelved().finite


@pytest.mark.parametrize("place", [0, 14])
def test_what_is_no_number_is_infinitely_far(place: int) -> None:
    x, y = drawn(15), drawn(15)
    y[place] = math.nan
    assert math.isnan(largest(Shelved(y)))
    assert Ran((y,), ()).change(Ran((x,), ()).shelved()) == math.inf
    assert Ran((x,), ()).change(Ran((y,), ()).shelved()) == math.inf
    assert not Ran((y,), ()).shelved().finite


def test_a_full_disk_leaves_them_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    x = drawn(9)
    assert shelved(x) is x
