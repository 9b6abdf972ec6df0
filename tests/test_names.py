"""Names that a loader takes beside those it saves by: what plugins see, and what merges go by, is named as saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import PluginFault
from redteam.plugins.registry import DEFENSES
from redteam.plugins.returned import check_as_read, check_returned
from redteam.tasks import Scenario
from tests.zoo import network

Rename = Callable[[str], str]
PREFIXES = {"vit": "vit.", "bert": "bert.", "llama": "model.", "gpt2": "transformer."}


def lacking(prefix: str) -> Rename:
    return lambda name: name.removeprefix(prefix)


def doubled(prefix: str) -> Rename:
    return lambda name: prefix + name


def legacy(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


RENAMINGS = [
    *((kind, f"{how.__name__} prefix", how(prefix)) for kind, prefix in PREFIXES.items() for how in (lacking, doubled)),
    ("bert", "gamma and beta", legacy),
    ("bert", "gamma and beta, lacking prefix", lambda name: legacy(name).removeprefix("bert.")),
]


@pytest.fixture(params=RENAMINGS, ids=lambda case: f"{case[0]}: {case[1]}")
def pair(request: pytest.FixtureRequest) -> tuple[Checkpoint, Checkpoint]:
    """A checkpoint as transformers saves it, and the same under other names."""
    kind, _, rename = request.param
    there = network(kind).checkpoint
    other = Checkpoint.of({rename(name): tensor for name, tensor in there.items()}, there.config)
    assert set(other) != set(there)
    assert all(torch.equal(*pair) for pair in zip(network(kind).computed(other), network(kind).outputs, strict=True))
    return there, other


def test_they_are_renamed_as_they_are_saved(pair: tuple[Checkpoint, Checkpoint]) -> None:
    there, other = pair
    assert other.canonical().digest() == there.digest()
    assert there.canonical() is there


def test_what_fits_no_network_is_left_alone() -> None:
    vit = network("vit").checkpoint
    strange = Checkpoint.of({f"module.{name}": tensor for name, tensor in vit.items()}, vit.config)
    for other in (strange, Checkpoint.of(dict(vit), {}), Checkpoint.of(dict(vit), {"model_type": "toy"})):
        assert other.canonical() is other


def test_what_a_defense_returns_has_the_names_that_it_was_given(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    there, other = pair
    plugin = loaded(tmp_path)
    for check in (check_returned, check_as_read):
        returned = check(plugin, there, other)
        assert shared_tensors(returned, there) == tuple(returned)
        assert returned.digest() == there.digest()
    name = next(iter(other))
    broken = other.replace({name: torch.full_like(other[name], torch.nan)})
    with pytest.raises(PluginFault, match="not finite"):
        check_returned(plugin, there, broken)


def loaded(folder: Path) -> Any:
    """A defense that may change the architecture."""
    (folder / "renaming.py").write_text(
        '"""Other names."""\n'
        "from redteam.plugins.contracts import defense\n\n\n"
        '@defense("renaming", exact=True, keyed=False, changes_architecture=True)\n'
        "def renaming(view):\n"
        '    """Gives other names."""\n'
        "    return view.victim\n"
    )
    return DEFENSES.load(f"{folder / 'renaming.py'}@renaming")


def test_the_models_of_a_scenario_agree_on_names(pair: tuple[Checkpoint, Checkpoint]) -> None:
    there, other = pair
    for base, expert in ((there, other), (other, there)):
        made = Scenario("own", 0, base, {"a": expert}, {}, "a")
        assert made.base.digest() == made.experts["a"].digest() == there.digest()


@pytest.mark.parametrize("command", ["attack", "protect", "merge", "audit"])
def test_commands_read_a_folder_under_other_names(
    pair: tuple[Checkpoint, Checkpoint], command: str, tmp_path: Path, shell: Any
) -> None:
    there, other = pair
    expert = {name: tensor + 0.01 * (tensor.ndim > 1) for name, tensor in other.items()}
    there.save(tmp_path / "base")
    Checkpoint.of(expert, other.config).save(tmp_path / "expert")
    base, model, out = (str(tmp_path / name) for name in ("base", "expert", "out"))
    words = {
        "attack": ("gauge-fit", model, "--base", base, "--out", out),
        "protect": (
            'permutation:sites=["vo","mlp"]',
            model,
            "--base",
            base,
            "--out",
            out,
            "--key",
            str(tmp_path / "key"),
        ),
        "merge": ("task-arithmetic", "--base", base, "--expert", model, "--out", out),
        "audit": (model, "--base", base),
    }
    told = shell(command, *words[command])
    assert told.code == 0, told.err
    if command == "audit":
        assert "another shape" not in told.out
        return
    written = Checkpoint.open(out)
    read = there if command == "merge" else other  # whose folder it is laid out like
    assert list(written) == list(Checkpoint.open(base if command == "merge" else model)), "names stay those that it had"
    changed = {name for name in read if not torch.equal(written[name], read[name])}
    assert len(changed) > len(there) / 3
    written.module()
