"""Writes files of the catalogue: describes model types anew, and proves again what was described by hand.

python tools/catalogue.py TYPE…         describe these and write their files
python tools/catalogue.py --prove TYPE… keep these descriptions and renew the proof (all types without TYPE)
python tools/catalogue.py TYPE '{"key": …}'
    describe it with other keys of the config than transformers' defaults, those of the checkpoints that people publish;
    the file keeps them under "switches"
python tools/catalogue.py TYPE+WORD '{"key": …}' ['{"key": …}']
    describe another form of it, which configs that hold these keys have; the type's own file stays. What the second
    holds is tried too, and no matter in a config
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from redteam.anatomy.catalog import ARCHITECTURES, FOLDER
from redteam.describe.describing import Description, describe, rows_of, small_network
from redteam.describe.shrink import complete
from redteam.describe.trials import Trial
from redteam.errors import RedteamError
from redteam.terminal import say

OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 64, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 70, "width": 64, "heads": 4, "layers": 2},
}


def switches_of(name: str) -> dict[str, Any]:
    """What a file of the catalogue says that its type is tried with; nothing where it says nothing or is not there."""
    found: dict[str, Any] = ARCHITECTURES.data(name).get("switches", {}) if name in ARCHITECTURES else {}
    return found


def config_of(name: str, switches: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config that a type is tried with, its sizes still large: with the switches of its file, or others."""
    config = complete(name.partition("+")[0])
    switches = switches_of(name) if switches is None else switches
    return {**config, **{key: _merged(config.get(key), value) for key, value in switches.items()}}


def _merged(before: Any, value: Any) -> Any:
    return {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value


def trial_of(name: str) -> Trial:
    """A small random network of a type of the catalogue."""
    if name != "open_clip":
        return small_network(config_of(name))
    import open_clip

    from redteam.checkpoint import Checkpoint

    module = open_clip.CLIP(**OPEN_CLIP, output_dict=False)
    weights = {key: tensor.double() for key, tensor in module.state_dict().items()}
    return Trial.of(Checkpoint.of(weights, {"model_type": "open_clip", "model_cfg": OPEN_CLIP}))


def prove(name: str) -> dict[str, Any]:
    """The file of a type with a new proof of the description that it has."""
    import transformers

    kept = {key: value for key, value in ARCHITECTURES.data(name).items() if key not in ("proof", "open")}
    trial = trial_of(name)
    if kept.get("logits_alone"):
        trial = replace(trial, states=False)
    rows = rows_of(trial, ARCHITECTURES[name])
    network = (trial.checkpoint.config.get("architectures") or ["open_clip.CLIP"])[0]
    new = {"network": network, "transformers": transformers.__version__}
    return {**kept, **new, "proof": [asdict(row) for row in rows], "open": ARCHITECTURES.data(name).get("open", [])}


def described(name: str, given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The file of a type that is described anew, with switches other than those of its file where some are given."""
    model_type, form, _ = name.partition("+")
    switches = {key: value for one in given for key, value in one.items()} if given else switches_of(name)
    found: Description = replace(describe(config_of(name, switches)), model_type=model_type)
    when = {"when": given[0] if given else ARCHITECTURES.data(name)["when"]} if form else {}
    return {"model_type": model_type, **when, **({"switches": switches} if switches else {}), **found.as_data()}


def main(arguments: list[str]) -> int:
    """Writes what is asked for, and says what could not be."""
    torch.set_num_threads(1)
    proving = "--prove" in arguments
    given = [json.loads(argument) for argument in arguments if argument.startswith("{")]
    names = [name for name in arguments if not name.startswith(("--", "{"))] or sorted(
        file.stem for file in FOLDER.glob("*.json")
    )
    failed = 0
    for name in names:
        try:
            data = prove(name) if proving else described(name, given)
        except RedteamError as error:
            say(f"{name}: {error}")
            failed += 1
            continue
        (FOLDER / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        worst = max((row["change"] for row in data["proof"]), default=0.0)
        say(f"{name}: {len(data['proof'])} rows, {worst:.0e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
