import collections
import dataclasses

import numpy as np
import pytest
import torch

from redteam.anatomy import ORDER, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.lazy import Transformed
from redteam.errors import BadInput, IllegalGauge
from redteam.key import Key
from redteam.symmetry import (
    GeneralLinear,
    MatrixGauge,
    Orthogonal,
    Permutation,
    fit_gauges,
    fitting,
    random_shifts,
    restore,
    sample_gauges,
    tied_cost,
)
from redteam.symmetry.fit_all import fit_all
from tests.zoo import network

KEY = Key.derive(seed=0, index=0, name="test")
OTHER = Key.derive(seed=0, index=1, name="test")
EVERY = [
    *((kind, group) for kind in ("qk", "vo") for group in (Permutation(), Orthogonal(), GeneralLinear())),
    *((kind, GeneralLinear(factor="gaussian")) for kind in ("qk", "vo")),
    ("mlp", Permutation()),
]
every_lock = pytest.mark.parametrize(("kind", "group"), EVERY, ids=lambda x: x if isinstance(x, str) else repr(x))
ATTENTION = ("qk", "vo")


def norm(one, other=None):
    """The distance between two checkpoints."""
    total = sum((one[n].double() - (0 if other is None else other[n].double())).square().sum() for n in one)
    return float(total) ** 0.5


def expert(base, size, seed=7):
    """A fine-tune: every tensor moved by `size` times its own deviation, norms by a twentieth of that."""
    draws, tensors = np.random.default_rng(seed), {}
    for name, tensor in base.items():
        noise = torch.from_numpy(draws.standard_normal(tensor.shape))
        tensors[name] = tensor + size * tensor.std() * noise * (0.05 if "norm" in name else 1.0)
    return base.replace(tensors)


@every_lock
def test_a_lock_keeps_the_function_and_moves_the_weights(case, kind, group):
    locked = sample_gauges(case.checkpoint, (kind,), group, KEY.generator)
    assert case.change(locked) < 1e-10
    assert norm(locked, case.checkpoint) > 0.3 * norm(case.checkpoint.replace({}))


@every_lock
def test_sample_then_fit_gives_function_and_weights_back(case, kind, group):
    locked = sample_gauges(case.checkpoint, (kind,), group, KEY.generator)
    back = fit_gauges(locked, case.checkpoint, (kind,), group)
    assert case.change(back) < 1e-10
    for name, tensor in case.checkpoint.items():
        assert float((back[name] - tensor).abs().max() / tensor.abs().max()) < 1e-8
    assert tied_cost(back, case.checkpoint, (kind,)) < 1e-16 * tied_cost(locked, case.checkpoint, (kind,))


def test_a_general_linear_lock_with_shifts_falls_to_the_canonicalised_fit_alone(case):
    base = case.checkpoint
    locked = random_shifts(
        sample_gauges(base, ATTENTION, GeneralLinear(), KEY.generator), np.random.default_rng(0), 10.0
    )
    assert case.change(locked) < 1e-10
    back = fit_gauges(locked, base, ATTENTION, GeneralLinear())
    back = restore(back, base, ("mlp",))
    assert norm(back, base) < 1e-8 * norm(base)

    plain = locked
    for kind in ATTENTION:
        sites = anatomy_of(base).sites((kind,))
        plain = plain.transform(sites, lambda s: GeneralLinear().fit(s.stacks(locked), s.stacks(base)))
    assert case.change(plain) < 1e-8
    assert norm(restore(plain, base), base) > 0.05 * norm(base)


def test_shifts_before_the_lock_fall_too(case):
    base = case.checkpoint
    locked = sample_gauges(
        random_shifts(base, np.random.default_rng(0), 10.0), ATTENTION, GeneralLinear(), KEY.generator
    )
    assert norm(restore(fit_gauges(locked, base, ATTENTION, GeneralLinear()), base), base) < 1e-8 * norm(base)


def test_with_a_task_vector_the_tied_fit_comes_closer_than_least_squares_and_keeps_the_function(vit):
    base = vit.checkpoint
    victim = expert(base, 0.1)
    locked = sample_gauges(victim, ATTENTION, GeneralLinear(), KEY.generator)
    tied = fit_gauges(locked, base, ATTENTION, GeneralLinear())
    assert float((vit.outputs(tied) - vit.outputs(victim)).abs().max()) < 1e-9

    tensors = {}
    for site in anatomy_of(base).sites(ATTENTION):
        ours, anchor = site.stacks(locked), site.stacks(base)
        free = [x0 @ torch.linalg.pinv(x) @ x for x, x0 in ((ours.left, anchor.left), (ours.right, anchor.right))]
        left, right = site.read(locked)
        tensors |= site.write(locked, site.left.unstack(free[0], left), site.right.unstack(free[1], right))
    untied = locked.replace(tensors)
    moved = [name for site in anatomy_of(base).sites(ATTENTION) for name in site.names if name.endswith("weight")]
    tied_gap, untied_gap = (norm({n: x[n] for n in moved}, victim) for x in (tied, untied))
    assert tied_gap < 0.95 * untied_gap
    assert float((vit.outputs(untied) - vit.outputs(victim)).abs().max()) > 1e-3


@pytest.mark.parametrize("size", [0.03, 0.3])
def test_two_keys_give_the_same_fit(case, size):
    base, victim = case.checkpoint, expert(case.checkpoint, size)
    fits = [
        fit_gauges(sample_gauges(victim, ATTENTION, GeneralLinear(), key.generator), base, ATTENTION, GeneralLinear())
        for key in (KEY, OTHER)
    ]
    assert norm(*fits) < 1e-8 * norm(victim, base)


@every_lock
def test_a_lock_does_not_change_what_its_own_fit_returns(vit, kind, group):
    victim = expert(vit.checkpoint, 0.1)
    locked = sample_gauges(victim, (kind,), group, KEY.generator)
    back, plain = (fit_gauges(x, vit.checkpoint, (kind,), group) for x in (locked, victim))
    assert norm(back, plain) < 1e-8 * norm(victim, vit.checkpoint)
    assert tied_cost(back, vit.checkpoint, (kind,)) <= 1.01 * tied_cost(plain, vit.checkpoint, (kind,))


def test_smaller_groups_do_not_open_larger_locks(vit):
    locked = sample_gauges(vit.checkpoint, ATTENTION, GeneralLinear(), KEY.generator)
    for group in (Permutation(), Orthogonal()):
        back = fit_gauges(locked, vit.checkpoint, ATTENTION, group)
        assert vit.change(back) < 1e-10
        assert norm(back, vit.checkpoint) > norm(vit.checkpoint)


def test_a_fit_never_reads_the_key_and_never_fits_twice(vit):
    fitted = []

    @dataclasses.dataclass(frozen=True)
    class Spy(GeneralLinear):
        def fit(self, moving, target) -> MatrixGauge:
            fitted.append(moving)
            return super().fit(moving, target)

    locked = sample_gauges(vit.checkpoint, ATTENTION, GeneralLinear(), KEY.generator)
    back = fit_gauges(locked, vit.checkpoint, ATTENTION, Spy())
    assert not fitted  # lazy
    site = anatomy_of(locked).sites(ATTENTION)[0]
    assert all(torch.isfinite(back[name]).all() for name in site.names)
    assert len(fitted) == 1
    for name in sorted(back):
        back[name]
    assert len(fitted) == 4  # each of the two layers' two sites once


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision(case, dtype):
    base = case.checkpoint.to(dtype)
    locked = sample_gauges(base, ATTENTION, GeneralLinear(), KEY.generator)
    back = fit_gauges(locked, base, ATTENTION, GeneralLinear())
    assert all(x[name].dtype == dtype for x in (locked, back) for name in base)
    assert all(torch.isfinite(back[name]).all() for name in back)
    assert norm(back, base) < 30 * torch.finfo(dtype).eps * norm(base)


def test_a_head_of_zeros_and_twin_neurons(vit):
    stem = "vit.encoder.layer.0."
    tensors = {n: t.clone() for n, t in vit.checkpoint.items()}
    for role in ("query", "key", "value"):
        for part in ("weight", "bias"):
            tensors[stem + f"attention.attention.{role}.{part}"][8:16] = 0
    tensors[stem + "attention.output.dense.weight"][:, 8:16] = 0
    tensors[stem + "attention.attention.key.weight"][16:20] = 0  # and one of short rank
    for part in ("weight", "bias"):
        tensors[stem + f"intermediate.dense.{part}"][3] = tensors[stem + f"intermediate.dense.{part}"][5]
    base = Checkpoint.of(tensors, vit.checkpoint.config)
    here = vit.outputs(base)
    locked = sample_gauges(base, ATTENTION, GeneralLinear(), KEY.generator)
    locked = sample_gauges(locked, ("mlp",), Permutation(), KEY.generator)
    back = fit_gauges(locked, base, ATTENTION, GeneralLinear())
    back = fit_gauges(back, base, ("mlp",), Permutation())
    assert float((vit.outputs(back) - here).abs().max() / here.abs().max()) < 1e-10
    assert norm(back, base) < 1e-8 * norm(base)


def test_nan_in_either_checkpoint_is_named(vit):
    name = "vit.encoder.layer.1.attention.attention.value.weight"
    spoiled = vit.checkpoint.replace({name: torch.full((24, 24), float("nan"))})
    for pair in ((spoiled, vit.checkpoint), (vit.checkpoint, spoiled)):
        with pytest.raises(BadInput, match=r"layer\.1\.attention\.attention\.value"):
            fit_gauges(*pair, ATTENTION, GeneralLinear())[name]


def test_an_anchor_of_another_size_is_refused(vit):
    name = "vit.encoder.layer.0.intermediate.dense.weight"
    other = vit.checkpoint.replace({name: torch.zeros(21, 24)})
    for ask in (
        lambda: fit_gauges(vit.checkpoint, other, ("mlp",), Permutation()),
        lambda: tied_cost(vit.checkpoint, other, ("mlp",)),
    ):
        with pytest.raises(BadInput, match="anchor"):
            ask()


def test_illegal_groups_are_refused_at_once(vit):
    for ask in (
        lambda: fit_gauges(vit.checkpoint, vit.checkpoint, ("mlp",), GeneralLinear()),
        lambda: sample_gauges(vit.checkpoint, ("vo", "mlp"), Orthogonal(), KEY.generator),
    ):
        with pytest.raises(IllegalGauge, match="mlp/0"):
            ask()


def test_no_gauge_is_fitted_twice(monkeypatch):
    base = network("llama").checkpoint
    looks = collections.Counter()

    def counted(site, compare):
        looks[site.label, compare.again] += 1
        return look(site, compare)

    look = fitting._quickly
    monkeypatch.setattr(fitting, "_quickly", counted)
    monkeypatch.setattr(Transformed, "KEPT", 0)  # as in a network of many layers
    monkeypatch.setattr(Transformed, "BYTES", 0)
    back = fit_all(sample_gauges(base, ("residual", "vo"), Permutation(), KEY.generator), base, ORDER)
    for name in (*base, *base):
        assert torch.isfinite(back[name]).all()
    assert set(looks.values()) == {1}
