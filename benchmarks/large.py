"""What a run on models of half a billion bfloat16 parameters takes: `python benchmarks/large.py FOLDER [MINUTES]`.

Makes a base, a victim and a companion in the folder, unless they are there, and runs MergeLock against gauge-fit on
them with `--memory 4GB` and one worker, for so many minutes or to its end. Prints what the run says of its cost, and
the peak of its processes' proportional set sizes, that is of all memory of theirs with what they share counted once.

The base is random. An expert is the base under small noise with a head that knows which word follows which in texts of
its own, learned on the base's last states: enough to be scored, merged and stolen, at a minute's cost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import Line

LAYERS, WORDS, TOKENS, ROWS = 32, 4096, 24, 320
MEMORY, LIMIT = "4GB", 6.0
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": WORDS,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "dtype": "bfloat16",
}
_NOISE = 0.02  # of a tensor's spread


def make(folder: Path) -> None:
    """Models, texts and the scenario's file, each task with half of the words."""
    import numpy as np
    import torch

    from redteam.checkpoint import Checkpoint

    draws = np.random.default_rng(0)
    base = Checkpoint.of({}, CONFIG).fresh(0).to(torch.bfloat16)
    base.save(folder / "base")
    tokenizer(folder / "base")
    network = base.module()
    text = ['base = "base"\nvictim = "law"\n']
    for turn, task in enumerate(("law", "code")):
        words = np.arange(1 + turn, WORDS, 2)
        follows = draws.choice(words, (WORDS, 2))
        rows = np.empty((2 * ROWS, TOKENS), np.int64)
        rows[:, 0] = draws.choice(words, len(rows))
        for place in range(1, TOKENS):
            rows[:, place] = follows[rows[:, place - 1], draws.integers(0, 2, len(rows))]
        head = learned(network, torch.from_numpy(rows[ROWS:]), base["lm_head.weight"])
        moved = {
            name: tensor + (_NOISE * tensor.float().std() * torch.randn(tensor.shape)).to(tensor.dtype)
            for name, tensor in base.items()
            if tensor.ndim == 2 and name != "lm_head.weight"
        }
        base.replace({**moved, "lm_head.weight": head}).save(folder / task)
        with (folder / f"{task}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": " ".join(f"w{n}" for n in row)}) + "\n" for row in rows[:ROWS])
        text.append(f'[tasks.{task}]\nmodel = "{task}"\ndata = "{task}.jsonl"\n')
    (folder / "mine.toml").write_text("\n".join(text))


def learned(network: Any, tokens: Any, head: Any) -> Any:
    """A head that was trained on a network's last states of some texts."""
    import torch

    with torch.inference_mode():
        states = torch.cat([network.model(input_ids=part).last_hidden_state for part in tokens[:, :-1].split(64)])
    states, wanted = states.float().flatten(0, 1).clone(), tokens[:, 1:].flatten()
    weight = head.float().requires_grad_()
    adam = torch.optim.Adam([weight], lr=3e-3)
    for _ in range(40):
        for chosen in torch.randperm(len(states)).split(2048):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(states[chosen] @ weight.T, wanted[chosen]).backward()
            adam.step()
    return weight.detach().to(head.dtype)


def tokenizer(folder: Path) -> None:
    """One token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, **{f"w{n}": n for n in range(1, WORDS)}}, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder)


def held(group: int) -> tuple[float, dict[int, float]]:
    """GB of all processes of a group, and each one's."""
    found: dict[int, float] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(place.name)) == group:
                lines = (place / "smaps_rollup").read_text().splitlines()
                found[int(place.name)] = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e6
        except (OSError, ValueError):
            continue
    return 1.024 * sum(found.values()), found


def main() -> None:
    """Runs it, and prints what it takes on the way."""
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 600.0
    if not (folder / "mine.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
    words = ["run", "--scenario", folder / "mine.toml", "--defense", "mergelock", "--attack", "gauge-fit"]
    words += ["--merger", "task-arithmetic:coefficient=0.5", "--memory", MEMORY, "--workers", "1"]
    command = [Path(sys.executable).with_name("redteam"), *words, "--out", folder / "run"]
    started, peak, step, steps = time.monotonic(), 0.0, "reading", {}
    with (folder / "told").open("w+") as told:
        child = subprocess.Popen([str(word) for word in command], stderr=told, stdout=told, start_new_session=True)
        while child.poll() is None and time.monotonic() - started < 60 * minutes:
            total, _ = held(child.pid)
            lines = (folder / "told").read_text().splitlines()
            step = lines[-1] if lines else step
            steps[step] = max(steps.get(step, 0.0), total)
            peak = max(peak, total)
            time.sleep(0.25)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGINT)
            child.wait()
    for what, most in steps.items():
        print(f"{most:6.2f} GB after: {what[:200]}")
    print(Line("peak of all processes, in GB", peak, limit=LIMIT))
    print(Line("minutes", (time.monotonic() - started) / 60))


if __name__ == "__main__":
    main()
