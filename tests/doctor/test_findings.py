"""Every finding of the doctor, on a folder that has nothing else, beside an expert that has nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.audit.walk import Walk
from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.registry import DEFENSES
from redteam.views import DefenderView
from tests.doctor.conftest import CONFIG, HEAD, TOKENS, Examine, only, settings, tuned

Shell = Callable[..., Any]


def refusal(shell: Shell, *experts: str, base: str = "base") -> str:
    """What `redteam merge` says of it."""
    words = [word for name in experts for word in ("--expert", name)]
    told = shell("merge", "linear", "--base", base, *words, "--out", "out")
    assert told.code == 2, told.out
    assert not Path("out").exists()
    return str(told.err.strip().splitlines()[-1].removeprefix("Error: "))


def test_a_clean_pair_has_no_finding(shell: Shell, doctor: Examine) -> None:
    found = doctor("one", "two")
    assert found.findings == ()
    assert [(m.name, m.shared, m.changed) for m in found.models] == [("one", 48, 48), ("two", 48, 48)]
    whole = sum(float(t.double().square().sum()) for t in Checkpoint.open("base").values()) ** 0.5
    for model in found.models:
        one, there = Checkpoint.open(model.name), Checkpoint.open("base")
        apart = sum(float((one[n].double() - there[n].double()).square().sum()) for n in there) ** 0.5
        assert model.length == pytest.approx(apart / whole)
    told = shell("doctor", "base", "one", "two")
    assert told.code == 0
    assert told.out.splitlines()[-1] == "Nothing was found that stops or damages a merge of these."


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_theta", 5e5),
        ("num_attention_heads", 8),
        ("rms_norm_eps", 0.1),
        ("hidden_act", "gelu"),
        ("tie_word_embeddings", True),
    ],
)
def test_settings_that_differ(shell: Shell, doctor: Examine, key: str, value: object) -> None:
    settings("two", **{key: value})
    finding = only(doctor("one", "two"))
    assert (finding.kind, finding.severity, finding.models) == ("config", "stops", ("two",))
    assert any(place.endswith(key) for place in finding.where), finding.where
    assert finding.told == refusal(shell, "one", "two")


def test_another_architecture(shell: Shell, doctor: Examine) -> None:
    settings("two", model_type="mistral")
    finding = only(doctor("one", "two"))
    assert (finding.kind, finding.severity) == ("unrelated", "stops")
    assert finding.told == refusal(shell, "one", "two")
    assert "mistral" in finding.told


def test_blocks_of_other_shapes_and_blocks_that_one_lacks(shell: Shell, doctor: Examine, here: Path) -> None:
    one = Checkpoint.open("one")
    name = "model.layers.0.mlp.up_proj.weight"
    one.replace({name: torch.zeros(50, 32)}).save(here / "wide")
    one.only([n for n in one if n != name]).save(here / "less")
    for model in ("wide", "less"):
        finding = only(doctor("two", model))
        assert (finding.kind, finding.severity, finding.models) == ("unrelated", "stops", (model,))
        assert name in finding.told
        assert finding.told == refusal(shell, "two", model)


def longer(checkpoint: Checkpoint, rows: torch.Tensor) -> Checkpoint:
    more = {name: torch.cat([checkpoint[name], rows]) for name in (TOKENS, HEAD)}
    return checkpoint.replace(more).configured({"vocab_size": 40 + len(rows)})


def test_tokens_that_were_added_are_lost_and_padding_is_not(doctor: Examine, here: Path) -> None:
    one = Checkpoint.open("one")
    longer(one, torch.randn(3, 32)).save(here / "added")
    longer(one, torch.zeros(8, 32)).save(here / "padded")
    finding = only(doctor("two", "added"))
    assert (finding.kind, finding.severity, set(finding.where)) == ("vocabulary", "damages", {TOKENS, HEAD})
    assert "43 rows, the base's 40" in finding.told
    finding = only(doctor("two", "padded"))
    assert (finding.kind, finding.severity) == ("vocabulary", "note")
    assert "padding" in finding.told


def test_an_expert_with_fewer_tokens_than_the_base(doctor: Examine, base: Checkpoint, here: Path) -> None:
    longer(base, torch.randn(3, 32)).save(here / "long")
    finding = only(doctor("one", base="long"))
    assert (finding.kind, finding.severity) == ("vocabulary", "note")
    assert "taken from the base" in finding.told


def tokenizer(folder: str, words: list[str], form: str = "dict") -> None:
    vocabulary: object = {word: number for number, word in enumerate(words)}
    if form == "list":
        vocabulary = [[word, -1.0] for word in words]
    held = {"model": {"vocab": vocabulary}, "added_tokens": [{"id": len(words), "content": "<end>"}]}
    Path(folder, "tokenizer.json").write_text(json.dumps(held))


@pytest.mark.parametrize("form", ["dict", "list"])
def test_a_tokenizer_with_other_tokens_under_the_same_numbers(doctor: Examine, form: str) -> None:
    words = [f"w{n}" for n in range(400)]
    for folder in ("base", "one"):
        tokenizer(folder, words, form)
    assert doctor("one", "two").findings == (), "the same, and none"
    tokenizer("two", [*words[:-2], "<|im_start|>", "<|im_end|>"], form)
    finding = only(doctor("one", "two"))
    assert (finding.kind, finding.severity, finding.models) == ("vocabulary", "note", ("two",))
    assert "2 of 401 numbers (398 is '<|im_start|>', the base's 'w398'" in finding.told
    tokenizer("two", words[::-1], form)
    finding = only(doctor("one", "two"))
    assert (finding.kind, finding.severity) == ("vocabulary", "damages")
    assert "400 of 401 numbers" in finding.told


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model": 3}', '{"model": {"vocab": {"a": "b"}}}', '{"added_tokens": 1}']
)
def test_a_tokenizer_that_says_nothing_is_no_finding(doctor: Examine, text: str) -> None:
    tokenizer("base", ["a", "b"])
    Path("one/tokenizer.json").write_text(text)
    assert doctor("one", "two").findings == ()


def test_a_head_of_its_own_over_a_tied_base(doctor: Examine, base: Checkpoint, here: Path) -> None:
    tied = base.only([n for n in base if n != HEAD]).configured({"tie_word_embeddings": True})
    tied.save(here / "tied")
    Checkpoint.open("one").configured({"tie_word_embeddings": True}).save(here / "untied")
    one = Checkpoint.open("one")
    one.replace({HEAD: one[TOKENS]}).configured({"tie_word_embeddings": True}).save(here / "stored")
    finding = only(doctor("untied", base="tied"))
    assert (finding.kind, finding.severity, finding.where) == ("head", "damages", (HEAD,))
    assert doctor("stored", base="tied").findings == (), "the same tensor, stored twice"


def test_a_head_that_the_base_alone_has(doctor: Examine, here: Path) -> None:
    one = Checkpoint.open("one")
    one.only([n for n in one if n != HEAD]).save(here / "bare")
    finding = only(doctor("two", "bare"))
    assert (finding.kind, finding.severity, finding.where) == ("missing", "note", (HEAD,))


def test_a_head_of_the_task(doctor: Examine, here: Path) -> None:
    one = Checkpoint.open("one")
    one.replace({"score.weight": torch.randn(3, 32)}).save(here / "scored")
    finding = only(doctor("two", "scored"))
    assert (finding.kind, finding.severity, finding.where) == ("own", "note", ("score.weight",))


def test_another_dtype_and_what_rounding_leaves_of_a_task_vector(doctor: Examine, base: Checkpoint, here: Path) -> None:
    Checkpoint.open("one").to(torch.bfloat16).save(here / "half")
    finding = only(doctor("two", "half"))
    assert (finding.kind, finding.severity) == ("dtype", "note")
    rounded = base.to(torch.bfloat16)
    rounded.save(here / "narrow")
    wide = Checkpoint.of({n: t.float() for n, t in rounded.items()}, CONFIG)
    tuned(wide, 1, 1e-4).save(here / "little")
    assert {f.severity for f in doctor("one", base="narrow").findings} == {"note"}
    found = [f for f in doctor("little", base="narrow").findings if f.severity == "damages"]
    assert [f.kind for f in found] == ["dtype"]
    assert "rounding" in found[0].told


def test_numbers_too_large_for_the_base(doctor: Examine, base: Checkpoint, here: Path) -> None:
    base.to(torch.float16).save(here / "narrow")
    one = Checkpoint.open("one")
    large = one["model.norm.weight"].clone()
    large[0] = 1e6
    one.replace({"model.norm.weight": large}).save(here / "large")
    (finding, *_) = doctor("large", base="narrow").findings
    assert (finding.kind, finding.severity, finding.where) == ("dtype", "damages", ("model.norm.weight",))
    assert "more than torch.float16 holds" in finding.told


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity(shell: Shell, doctor: Examine, here: Path, value: float) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    broken = Checkpoint.open("one")[name].clone()
    broken[0, 0] = value
    Checkpoint.open("one").replace({name: broken}).save(here / "broken")
    finding = only(doctor("two", "broken"))
    assert (finding.kind, finding.severity, finding.where) == ("not-finite", "stops", (name,))
    assert finding.told == refusal(shell, "two", "broken")


def test_an_expert_that_is_the_base_and_one_that_is_it_rounded(doctor: Examine, base: Checkpoint, here: Path) -> None:
    finding = only(doctor("one", "same=base"))
    assert (finding.kind, finding.severity, finding.models) == ("is-base", "damages", ("same",))
    base.to(torch.bfloat16).save(here / "rounded")
    assert [f.kind for f in doctor("one", "rounded").findings] == ["is-base", "dtype"]


def test_a_copy(doctor: Examine, here: Path) -> None:
    finding = only(doctor("one", "two", "again=one"))
    assert (finding.kind, finding.severity, finding.models) == ("copy", "damages", ("one", "again"))
    one = Checkpoint.open("one")
    name = "model.layers.0.mlp.up_proj.weight"
    one.replace({name: one[name] + 1e-4}).save(here / "near")
    assert doctor("one", "near").findings == ()


def test_another_base(doctor: Examine, here: Path) -> None:
    other = Checkpoint.of({}, CONFIG).fresh(5)
    tuned(Checkpoint.of({n: t.float() for n, t in other.items()}, CONFIG), 3, 0.1).save(here / "stranger")
    finding = only(doctor("one", "stranger"))
    assert (finding.kind, finding.severity, finding.models) == ("other-base", "damages", ("stranger",))
    assert "1.4 times the base's norm" in finding.told


def test_a_base_of_zeros_and_an_expert_of_zeros(doctor: Examine, base: Checkpoint, here: Path) -> None:
    Checkpoint.of({n: torch.zeros_like(t) for n, t in base.items()}, CONFIG).save(here / "zeros")
    for models, whose in ((("one", "two"), "zeros"), (("zeros",), "base")):
        found = doctor(*models, base=whose).findings
        assert [(f.kind, f.severity, f.models) for f in found] == [("other-base", "damages", (m,)) for m in models]


def test_layers_that_were_drawn_anew_are_no_other_base(doctor: Examine, here: Path) -> None:
    one = Checkpoint.open("one")
    draws = torch.Generator().manual_seed(0)
    anew = {
        n: t.std() * torch.randn(t.shape, generator=draws)
        for n, t in one.items()
        if n.startswith("model.layers.4.") and t.ndim == 2
    }
    one.replace(anew).save(here / "part")
    finding = only(doctor("two", "part"))
    assert (finding.kind, finding.severity, set(finding.where)) == ("far", "damages", set(anew))


@pytest.mark.parametrize(
    ("lock", "kinds", "group"),
    [
        ("permutation:sites=[mlp]", {"mlp"}, "permutation"),
        ("mergelock", {"qk", "vo"}, "general-linear"),
        ("rotation:sites=[vo]", {"vo"}, "orthogonal"),
    ],
)
def test_a_gauge(
    shell: Shell, doctor: Examine, base: Checkpoint, here: Path, lock: str, kinds: set[str], group: str
) -> None:
    """Its remedy is a command that runs, after which nothing is found."""
    one = Checkpoint.open("one")
    DEFENSES.load(lock)(DefenderView(one, base, Key.derive(seed=0, index=0, name="defender"))).save(here / "locked")
    found = doctor("two", "locked").findings
    assert {(f.kind, f.severity, f.models) for f in found} == {("gauge", "damages", ("locked",))}
    assert {place.partition("/")[0] for f in found for place in f.where} == kinds
    assert any(group in f.told for f in found)
    command = found[0].remedy.partition("redteam ")[2].partition(", and merge")[0].split()
    told = shell(*command)
    assert told.code == 0, told.err
    assert doctor("two", command[-1]).findings == ()


def test_neurons_are_told_from_one_another_by_a_part_of_their_columns(base: Checkpoint) -> None:
    """Which sees the lock that the whole sees, and compares fewer numbers; rows that are mixed are looked at whole."""
    view = DefenderView(tuned(base, 1), base, Key.derive(seed=0, index=0, name="defender"))
    locked = DEFENSES.load("permutation:sites=[vo,mlp]")(view)
    part, whole = (
        {looked.site.label: looked.finding for looked in Walk(locked, base, columns=columns)} for columns in (8, None)
    )
    assert {label: site.group for label, site in part.items()} == {label: site.group for label, site in whole.items()}
    assert part["mlp/0"].group == "permutation"
    assert part["vo/0"] == whole["vo/0"]
    before, all_of_it = part["mlp/0"].tied_before, whole["mlp/0"].tied_before
    assert before is not None
    assert all_of_it is not None
    assert before < 0.5 * all_of_it


def test_further_than_training_goes_without_a_gauge(doctor: Examine, base: Checkpoint, here: Path) -> None:
    tuned(base, 3, 0.4).save(here / "distant")
    finding = only(doctor("distant"))
    assert (finding.kind, finding.severity) == ("far", "note")
    assert "no change of basis explains it" in finding.told


def test_two_models_under_one_gauge_merge_with_one_another(doctor: Examine, base: Checkpoint, here: Path) -> None:
    locks = {"first": ("one", 0), "same": ("two", 0), "apart": ("two", 1)}
    for name, (model, index) in locks.items():
        key = Key.derive(seed=0, index=index, name="defender")
        DEFENSES.load("mergelock")(DefenderView(Checkpoint.open(model), base, key)).save(here / name)
    notes = [f for f in doctor("first", "same", "apart").findings if f.severity == "note"]
    assert [(f.kind, f.models) for f in notes] == [("gauge", ("first", "same"))]
    assert "linear" in notes[0].remedy


def test_few_of_many_layers_are_fitted(doctor: Examine, base: Checkpoint, here: Path) -> None:
    view = DefenderView(Checkpoint.open("one"), base, Key.derive(seed=0, index=0, name="defender"))
    DEFENSES.load("permutation:sites=[mlp]")(view).save(here / "locked")
    finding = only(doctor("locked"))
    assert finding.where == ("mlp/0", "mlp/2", "mlp/4")
    assert "Fitted were 3 of 5 layers" in finding.told


def test_a_task_vector_that_drowns_the_others(doctor: Examine, base: Checkpoint, here: Path) -> None:
    tuned(base, 3, 0.2).save(here / "long")
    finding = only(doctor("one", "two", "long"))
    assert (finding.kind, finding.severity, finding.models) == ("length", "damages", ("long",))
    assert "10 times as long" in finding.told
    tuned(base, 3, 0.002).save(here / "short")
    finding = only(doctor("one", "two", "short"))
    assert (finding.kind, finding.models) == ("length", ("short",))
    assert "10 times as short" in finding.told
    assert only(doctor("one", "short")).models == ("one",), "of two the longer one is named"


def test_a_layer_that_stands_out(doctor: Examine, base: Checkpoint, here: Path) -> None:
    one, more = Checkpoint.open("one"), tuned(base, 3, 0.25)
    one.replace({n: more[n] for n in base if n.startswith("model.layers.3.")}).save(here / "uneven")
    found = doctor("uneven").findings
    assert [(f.kind, f.severity, f.where) for f in found] == [("layer", "note", ("model.layers.3",))]


def test_quantised_weights_of_an_expert_and_of_the_base(shell: Shell, doctor: Examine) -> None:
    settings("two", quantization_config={"quant_method": "awq", "bits": 4})
    finding = only(doctor("one", "two"))
    assert (finding.kind, finding.severity, finding.models) == ("quantised", "stops", ("two",))
    assert finding.told == refusal(shell, "one", "two")
    finding = only(doctor("one", base="two"))
    assert (finding.kind, finding.models) == ("quantised", ("the base",))
    assert finding.told == refusal(shell, "one", base="two")


def test_what_cannot_be_read(shell: Shell, doctor: Examine, here: Path) -> None:
    (here / "two/model.safetensors").write_bytes(b"no weights")
    finding = only(doctor("one", "two"))
    assert (finding.kind, finding.severity, finding.models) == ("unreadable", "stops", ("two",))
    assert finding.told == refusal(shell, "one", "two")


def test_a_network_that_nobody_knows(doctor: Examine, base: Checkpoint, here: Path) -> None:
    for name in ("base", "one", "two"):
        settings(name, model_type="nobodys", architectures=["Nobodys"])
    assert doctor("one", "two").findings == ()
    tuned(base, 3, 1.0).configured({"model_type": "nobodys"}).save(here / "far")
    settings("far", architectures=["Nobodys"])
    kinds = {f.kind: f for f in doctor("one", "far").findings}
    assert kinds["anatomy"].severity == "note"
    assert "redteam describe" in kinds["anatomy"].remedy


def test_tokens_under_other_numbers(doctor: Examine, base: Checkpoint, here: Path) -> None:
    expert = tuned(base, 1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    expert.replace({name: expert[name][order] for name in (TOKENS, HEAD)}).save(here / "renumbered")
    found = only(doctor("renumbered", "two"))
    assert (found.kind, found.severity, found.models) == ("vocabulary", "damages", ("renumbered",))
    assert set(found.where) == {TOKENS, HEAD}
    assert "in another order" in found.told
    assert "redteam attack vocabulary-match" in found.remedy
    assert " renumbered --base base " in found.remedy
