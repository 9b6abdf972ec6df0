"""The lock on the vocabulary: exact where there is one, refused elsewhere, read off tokenizers and matched by rows."""

import numpy as np
import pytest
import torch
from redteam_attacks.matching_rows import matched_rows
from redteam_attacks.vocabulary_match import vocabulary_match
from redteam_attacks.vocabulary_read import vocabulary_read
from redteam_defenses.planar import planar
from redteam_defenses.vocabulary import vocabulary

from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.checkpoint.numbering import numbers_of, renumbered, token_tables
from redteam.checkpoint.tensors import NUMBERS
from redteam.errors import BadInput, IllegalGauge
from redteam.symmetry import prove
from redteam.testing import toy_scenario
from redteam.views import AttackerView, DefenderView, unlocked
from tests.defenses.shaped import KEY, OTHER, protect
from tests.zoo import network

TEXTS = ("bert", "roberta", "gpt2", "llama", "gemma2", "t5", "phi", "cohere")


def view(protected: Checkpoint, anchor: Checkpoint) -> AttackerView:
    return AttackerView.by_hand(protected, anchor=anchor)


def without_its_tokenizer(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint.only(name for name in checkpoint if name != NUMBERS)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in other)


def tuned(base: Checkpoint, size: float) -> Checkpoint:
    draws = KEY.generator("task vector")
    noise = {n: torch.from_numpy(np.asarray(draws.standard_normal(base.shape(n)))) for n in base}
    return base.replace({n: base[n] + size * base[n].std() * noise[n] for n in base})


@pytest.mark.parametrize("name", TEXTS)
def test_the_function_stays_with_its_tokenizer_and_goes_without(name):
    net = network(name)
    locked = protect(net.checkpoint, vocabulary)
    assert net.change(locked) <= 1e-12
    assert net.change(without_its_tokenizer(locked)) > 0.1
    assert not [n for n in token_tables(locked).axes if torch.equal(locked[n], net.checkpoint[n])]


@pytest.mark.parametrize("name", TEXTS)
def test_key_strings_and_rows_give_the_weights_back(name):
    base = network(name).checkpoint
    victim = tuned(base, 0.2)
    locked = protect(victim, vocabulary)
    assert same(unlocked(locked, vocabulary, base, KEY), victim)
    assert same(vocabulary_read(view(locked, base)), victim)
    assert same(vocabulary_match(view(locked, base)), victim)
    assert not same(unlocked(locked, vocabulary, base, OTHER), victim)


def test_rows_alone_tell_who_has_no_tokenizer():
    base = network("llama").checkpoint
    victim = tuned(base, 0.3)
    bare = without_its_tokenizer(protect(victim, vocabulary))
    assert same(vocabulary_read(view(bare, base)), bare)
    found = vocabulary_match(view(bare, base))
    assert same(without_its_tokenizer(found), victim)
    assert prove(bare, found).holds


def test_every_token_but_those_that_the_config_names_gets_another_number():
    net = network("llama")
    base = net.checkpoint.configured({"pad_token_id": 5, "image_token_index": 7, "suppress_tokens": [8, 9]})
    tokens, numbers = numbers_of(protect(base, vocabulary))
    assert not (tokens == numbers).any()
    assert torch.equal(tokens.sort().values, numbers.sort().values)
    assert set(range(30)) - set(tokens.tolist()) >= {5, 7, 8, 9}


def test_the_weakened_form_moves_a_few():
    base = network("llama").checkpoint
    tokens, numbers = numbers_of(protect(base, vocabulary, share=0.01))
    assert int((tokens != numbers).sum()) == 2


def test_two_locks_in_a_chain_come_off_in_order():
    base = network("llama").checkpoint
    once = vocabulary(DefenderView(planar(DefenderView(base, base, OTHER)), base, KEY))
    twice = vocabulary(DefenderView(once, base, OTHER))
    assert network("llama").change(twice) <= 1e-10
    assert same(vocabulary_read(view(twice, base)), planar(DefenderView(base, base, OTHER)))
    assert same(unlocked(twice, vocabulary, base, OTHER), once)


def test_the_numbers_of_tokens_are_no_weights():
    base = network("llama").checkpoint
    locked = protect(base, vocabulary)
    assert NUMBERS not in (*shared_tensors(locked, base), *own_tensors(locked, base))
    trained = locked.trained(locked.module())
    assert torch.equal(trained[NUMBERS], locked[NUMBERS])


def test_a_network_that_reads_block_by_block_takes_them_as_well():
    from redteam.symmetry.running import run_network

    net = network("llama")
    ids = [{"input_ids": torch.arange(3, 15)[None]}]
    locked = protect(net.checkpoint, vocabulary)
    here, there = (run_network(one, ids, torch.float64, streamed=True) for one in (net.checkpoint, locked))
    assert there.change(here) <= 1e-12


def test_labels_are_tokens_where_logits_are():
    net = network("llama")
    ids = torch.arange(3, 15)[None]
    labels = ids.clone()
    labels[0, :4] = -100
    with torch.no_grad():
        losses = [
            one.module(torch.float64)(input_ids=ids, labels=labels).loss
            for one in (net.checkpoint, protect(net.checkpoint, vocabulary))
        ]
    assert float((losses[0] - losses[1]).abs()) <= 1e-6


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("vit", IllegalGauge, "has no vocabulary"),
        ("resnet", IllegalGauge, "has no vocabulary"),
        ("clip", IllegalGauge, "its token of the largest number"),
        ("open-clip", BadInput, "is not known"),
    ],
)
def test_it_is_refused_in_a_sentence(name, error, why):
    with pytest.raises(error, match=why):
        protect(network(name).checkpoint, vocabulary)


def test_a_number_beyond_the_tables_is_refused():
    base = network("llama").checkpoint
    with pytest.raises(BadInput, match="expected the tokenizer that goes with"):
        renumbered(base, torch.tensor([[3, 30], [30, 3]]))


@pytest.mark.parametrize("rows", [400, 4000])
@pytest.mark.parametrize("drift", [0.0, 0.4])
def test_rows_that_are_equal_are_shared_out_among_themselves(rows, drift):
    """Below and above the number for which all pairs are looked at."""
    draws = torch.Generator().manual_seed(1)
    theirs = torch.randn(rows, 48, generator=draws) + 1.0
    ours = theirs + drift * torch.randn(rows, 48, generator=draws)
    equal = rows // 4
    theirs[:equal], ours[:equal] = theirs[0], ours[0]
    order = torch.randperm(rows, generator=draws)
    found = matched_rows(ours[order], theirs, directions=24, generator=np.random.default_rng(0))
    assert torch.equal(found.sort().values, torch.arange(rows))
    assert bool(((found == order) | ((found < equal) & (order < equal))).all())


def test_rows_that_nothing_tells_apart_are_still_a_permutation():
    table = torch.zeros(3500, 16)
    found = matched_rows(table + 1.0, table, directions=8, generator=np.random.default_rng(0))
    assert torch.equal(found.sort().values, torch.arange(3500))


def test_a_base_of_another_vocabulary_is_matched_as_far_as_it_goes():
    scenario = toy_scenario("llama")
    base, victim = scenario.base, scenario.experts["victim"]
    short = base.replace({"model.embed_tokens.weight": base["model.embed_tokens.weight"][:36]})
    found = vocabulary_match(view(victim, short.configured({"vocab_size": 36})))
    assert same(found, victim)
