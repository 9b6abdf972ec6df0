"""The merger mergekit: what mergekit's functions gave when they were called by hand, and a sentence where it is not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, BadSetting, Inapplicable
from redteam.plugins.registry import MERGERS
from redteam.views import MergerView
from tests.mergers.conftest import watched
from tests.mergers.oracles import KEPT, MERGEKIT, apart, merged, of_mergekit

View = Callable[..., MergerView]
Experts = Mapping[str, Checkpoint]
installed = pytest.mark.skipif(not MERGEKIT, reason="mergekit is not installed (the extra mergekit)")


def made(text: str, view: MergerView) -> Checkpoint:
    merge: Checkpoint = MERGERS.load(text)(view)
    return merge


def only(experts: Experts, *tasks: str) -> dict[str, Checkpoint]:
    return {task: experts[task] for task in tasks}


@pytest.mark.parametrize("found", [None, "old"])
def test_without_it_one_sentence_says_how_to_get_it(
    found: str | None, view: View, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    if found is None:
        monkeypatch.setitem(sys.modules, "mergekit", None)
    else:  # a release that has no functions for tensors in memory
        spec = importlib.util.spec_from_loader("mergekit", None)
        assert spec is not None
        old = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mergekit", old)
        monkeypatch.delitem(sys.modules, "mergekit.merge_methods", raising=False)
    with pytest.raises(BadInput, match=r"pip install 'merge-redteam\[mergekit\]'") as told:
        made("mergekit:method=ties", view(experts))
    assert not isinstance(told.value, Inapplicable), "a merge that should have been is missing"


def test_the_shell_says_so_as_well(shell: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "mergekit", None)
    from redteam.testing import toy_scenario

    scenario = toy_scenario("vit")
    scenario.base.save(tmp_path / "base")
    scenario.experts["left"].save(tmp_path / "left")
    told = shell(
        "merge", "mergekit", "--base", str(tmp_path / "base"), "--expert", str(tmp_path / "left"), "--out",
        str(tmp_path / "out"),
    )  # fmt: skip
    assert told.code == 2
    assert "pip install 'merge-redteam[mergekit]'" in " ".join(told.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    ["parameters=[[density]]", "parameters=[density,0.5]", "parameters=[[density,left,0.5,1]]", "dtype=int8"],
)
def test_settings_of_another_form_are_refused_without_it_too(text: str) -> None:
    with pytest.raises(BadSetting):
        MERGERS.load(f"mergekit:{text}")


OURS = {
    "slerp": "slerp,parameters=[[t,0.5]]",
    "slerp:weights=[[right,3.0]]": "slerp,parameters=[[t,0.75]]",
    "nuslerp:weights=[[right,3.0]]": "nuslerp,weights=[[right,3.0]]",
    "nuslerp:along=last": "nuslerp,parameters=[[nuslerp_flatten,false]]",
    "nuslerp:along=first": "nuslerp,parameters=[[nuslerp_flatten,false],[nuslerp_row_wise,true]]",
    "karcher": "karcher",
    "model-stock": "model_stock",
    "model-stock:by=row": "model_stock,parameters=[[filter_wise,true]]",
    "sce:variant=mergekit": "sce",
    "sce:variant=mergekit,density=0.5": "sce,parameters=[[select_topk,0.5]]",
    "arcee-fusion": "arcee_fusion",
    "nearswap:t=0.1": "nearswap,parameters=[[t,0.1]]",
    "ram": "ram",
    "ramplus:variant=mergekit": "ramplus_tl",
    "breadcrumbs:density=0.5,gamma=0.2,coefficient=0.7": (
        "breadcrumbs,parameters=[[density,0.5],[gamma,0.2]],coefficient=0.7"
    ),
    "breadcrumbs:elect=true,density=0.5,gamma=0.2,coefficient=0.7": (
        "breadcrumbs_ties,parameters=[[density,0.5],[gamma,0.2]],coefficient=0.7"
    ),
}
"""Ours, kept in mergekit.json as what mergekit's functions gave → the same by the merger."""
ONE, TWO = ("arcee-fusion", "nearswap"), ("slerp", "nuslerp")


def test_all_that_was_kept_is_tried() -> None:
    without_base = {text for text in KEPT["outputs"] if text.startswith("multislerp")}
    assert {*OURS} == {*KEPT["outputs"]} - without_base


@installed
@pytest.mark.parametrize("text", OURS)
def test_it_gives_what_its_functions_gave(text: str, view: View) -> None:
    base, experts = of_mergekit()
    count = 1 if text.startswith(ONE) else 2 if text.startswith(TWO) else 3
    given = only(experts, *("left", "right", "victim")[:count])
    merge = made(f"mergekit:method={OURS[text]}", view(given, base=base))
    for name, theirs in KEPT["outputs"][text].items():
        assert apart(merge[name], torch.tensor(theirs)) <= 1e-6


@installed
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("task-arithmetic:coefficient=0.3", "task_arithmetic,coefficient=0.3"),
        ("task-arithmetic:coefficient=0.3", "task_arithmetic,parameters=[[weight,0.3]]"),
        ("linear:weights=[[left,3.0]]", "linear,weights=[[left,3.0]]"),
        ("linear:weights=[[left,3.0]]", "linear,parameters=[[weight,left,3.0]]"),
        ("ties:variant=mergekit,density=0.5", "ties,parameters=[[density,0.5]]"),
        (
            "ties:variant=mergekit,density=0.5,weights=[[left,3.0]]",
            "ties,parameters=[[density,0.5],[int8_mask,true]],weights=[[left,3.0]]",
        ),
        ("multislerp", "multislerp"),
    ],
)
def test_it_gives_what_ours_gives(ours: str, theirs: str, view: View) -> None:
    base, experts = of_mergekit(torch.float64)
    if ours == "multislerp":  # which merges task vectors where it is given the base
        base = Checkpoint.of({name: torch.zeros_like(tensor) for name, tensor in base.items()}, {})
    wanted = made(ours, view(experts, base=base, needs_base=MERGERS.load(ours).spec.needs_base))
    merge = made(f"mergekit:method={theirs}", view(experts, base=base))
    for name in base:
        assert apart(merge[name], wanted[name]) <= 1e-9


@installed
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_draws_are_the_same_again_and_leave_torchs_alone(method: str, view: View) -> None:
    base, experts = of_mergekit()
    text = f"mergekit:method={method},parameters=[[density,0.5]]"
    state = torch.random.get_rng_state()
    one, again, other = (made(text, view(experts, base=base, stream=stream)) for stream in (0, 0, 1))
    assert one.digest() == again.digest() != other.digest()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one["flat"], again["flat"]), "whatever was read before"


@installed
def test_a_value_of_one_task_goes_before_that_of_all(view: View) -> None:
    base, experts = of_mergekit()
    text = "mergekit:method=ties,parameters=[[density,0.5],[density,left,1.0]]"
    all_half, all_whole = (
        made(f"mergekit:method=ties,parameters=[[density,{n}]]", view(only(experts, "left"), base=base))
        for n in (0.5, 1.0)
    )
    alone = made(text, view(only(experts, "left"), base=base))
    assert alone.digest() == all_whole.digest() != all_half.digest()
    other = made(text, view(only(experts, "right"), base=base))
    assert (
        other.digest()
        == made(text.replace(",[density,left,1.0]", ""), view(only(experts, "right"), base=base)).digest()
    )


@installed
def test_another_base_model_and_another_precision(view: View) -> None:
    base, experts = of_mergekit()
    two = view(only(experts, "left", "right"), base=base)
    swapped = made("mergekit:method=slerp,parameters=[[t,0.25]],base_model=right", two)
    plain = made("mergekit:method=slerp,parameters=[[t,0.75]]", two)
    for name in base:
        assert apart(swapped[name], plain[name]) <= 1e-6
    rough = made("mergekit:method=slerp,parameters=[[t,0.75]],dtype=bfloat16", two)
    assert rough.dtype("flat") == torch.float32
    assert 1e-4 < apart(rough["flat"], plain["flat"]) < 1e-2
    assert torch.equal(rough["flat"], rough["flat"].bfloat16().float())


@installed
@pytest.mark.parametrize(
    ("text", "count", "sentence"),
    [
        ("method=tise", 3, "mergekit has no method 'tise'; it has arcee_fusion, "),
        ("method=ties,parameters=[[densty,0.5]]", 3, "ties has no parameter 'densty'; it has density, "),
        ("method=ties,parameters=[[normalize,left,true]]", 3, "normalize of mergekit's ties is one for all models"),
        ("method=ties,parameters=[[lambda,0.5]]", 3, "lambda is the setting coefficient"),
        ("method=ties,parameters=[[int8_mask,0.5]]", 3, "takes no 0.5 for int8_mask"),
        ("method=karcher,weights=[[left,2.0]]", 3, "karcher has no parameter 'weight'; it has max_iter, tol"),
        ("method=slerp", 2, "slerp needs a value for t; write 'mergekit:method=slerp,parameters=[[t,…]]'"),
        ("base_model=nobody", 3, "names no expert: 'nobody'; the experts are left, right, victim"),
        ("method=linear,base_model=left", 3, "linear takes no base"),
    ],
)
def test_what_is_wrong_is_one_sentence(text: str, count: int, sentence: str, view: View) -> None:
    base, experts = of_mergekit()
    with pytest.raises(BadInput) as told:
        made(f"mergekit:{text}", view(dict(list(experts.items())[:count]), base=base))
    assert sentence in str(told.value)


@installed
@pytest.mark.parametrize("text", ["slerp,parameters=[[t,0.5]]", "nuslerp", "arcee_fusion", "passthrough"])
def test_another_number_of_experts_is_inapplicable(text: str, view: View) -> None:
    base, experts = of_mergekit()
    with pytest.raises(Inapplicable, match="does not take 3 experts"):
        made(f"mergekit:method={text}", view(experts, base=base))


@installed
def test_every_method_that_it_has_is_named_and_merges() -> None:
    from mergekit.merge_methods import registered_methods

    base, experts = of_mergekit()
    takes = {"slerp": 2, "nuslerp": 2, "arcee_fusion": 1, "nearswap": 1, "passthrough": 1}
    for method in (one.spec.name for one in registered_methods()):
        assert f"`{method}`" in (MERGERS.load("mergekit").function.__doc__ or ""), method
        given = dict(list(experts.items())[: takes.get(method, 3)])
        text = f"mergekit:method={method}" + (",parameters=[[t,0.5]]" if method in ("slerp", "nearswap") else "")
        merge = merged(text, base, given)
        assert all(merge[name].isfinite().all() for name in base), method


@installed
def test_too_few_for_a_tensor_leave_the_base(view: View) -> None:
    base, experts = of_mergekit()
    short = {**experts, "left": experts["left"].only(["flat"]), "right": experts["right"].only(["flat"])}
    merge = made("mergekit:method=model_stock", view(short, base=base))
    assert torch.equal(merge["square"], base["square"])
    assert not torch.equal(merge["flat"], base["flat"])


@installed
def test_nothing_is_computed_before_it_is_read(view: View) -> None:
    base, experts = of_mergekit()
    read: list[str] = []

    given = {task: watched(expert, read) for task, expert in experts.items()}
    merge = made("mergekit:method=ties", view(given, base=watched(base, read)))
    assert not read
    assert merge["flat"].isfinite().all()
    assert {*read} == {"flat"}
