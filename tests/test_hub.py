"""Models by hub name, from a server on this machine that speaks the hub's protocol; and what happens without one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from huggingface_hub import constants
from transformers import BertConfig, BertModel

from redteam import hub
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.events import Observer, reporting_to
from redteam.hub import commit_of, fetched, fetched_dataset

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name, each a folder; asked like the hub."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.revisions = {"main", SHA}
        self.status = 0  # what everything is answered with, where it is not 0
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a request."""
        self.asked.append(path)
        if self.status:
            return self.status, {}, b""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]  # a revision may have slashes
        of_api = parts[:2] in (["api", "models"], ["api", "datasets"])
        parts = parts[1:] if parts[0] == "datasets" else parts
        name, rest = "/".join(parts[2:4] if of_api else parts[:2]), parts[4:] if of_api else parts[2:]
        if name not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        folder = self.repositories[name]
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        if not set(rest[1:2]) <= self.revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if of_api and rest[:1] in ([], ["revision"]):
            found = [{"rfilename": file, "size": path.stat().st_size} for file, path in files.items()]
            return 200, {}, json.dumps({"id": name, "sha": SHA, "siblings": found}).encode()
        if of_api:
            tree = [
                {"type": "file", "path": file, "size": path.stat().st_size, "oid": self.tag(path)}
                for file, path in files.items()
            ]
            return 200, {}, json.dumps(tree).encode()
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        file = files["/".join(rest[2:])]
        return 200, {"X-Repo-Commit": SHA, "ETag": f'"{self.tag(file)}"'}, file.read_bytes()

    @staticmethod
    def tag(file: Path) -> str:
        return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=40, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\nthe\n")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    for left in ("modeling_own.py", "pytorch_model.bin", "training_args.pt", "onnx/config.json", "picture.png"):
        (folder / left).parent.mkdir(exist_ok=True)
        (folder / left).write_bytes(b"\x80\x04never read")
    return folder


@pytest.fixture
def server(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    served.repositories["org/model"] = model

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = served.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        pointed(monkeypatch, f"http://127.0.0.1:{http.server_port}", tmp_path / "cache")
        yield served
        http.shutdown()


def pointed(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """huggingface_hub reads its variables when it is imported."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def same(folder: Path, model: Path) -> bool:
    here, there = Checkpoint.open(folder), Checkpoint.open(model)
    return here.config == there.config and all(torch.equal(here[name], there[name]) for name in there)


def test_a_name_becomes_a_folder_without_pickles_and_code(server: Hub, model: Path) -> None:
    folder = fetched("org/model")
    assert same(folder, model)
    taken = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert taken == {"config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"}
    assert commit_of(folder) == SHA


def test_what_the_cache_has_is_not_fetched_again(server: Hub) -> None:
    folder = fetched("org/model")
    server.asked.clear()
    assert fetched("org/model") == folder
    assert not any("/resolve/" in path for path in server.asked)
    server.asked.clear()
    assert fetched("org/model", SHA) == folder
    assert server.asked == []


def test_what_the_cache_has_in_part_is_completed(server: Hub, model: Path) -> None:
    folder = fetched("org/model")
    (folder / "model.safetensors").unlink()
    assert same(fetched("org/model", SHA), model)


def test_without_the_hub_the_cache_is_used(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetched("org/model")
    server.status = 503
    assert fetched("org/model") == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    assert fetched("org/model") == folder
    assert server.asked == []
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"^org/model is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it"):
        fetched("org/model")


def test_a_folder_is_itself(model: Path) -> None:
    assert fetched(str(model)) == model
    assert commit_of(model) is None


def test_progress_is_told(server: Hub, model: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    (large / "config.json").write_text("{}")
    (large / "model.safetensors").write_bytes(os.urandom(7_000_000))
    server.repositories["org/large"] = large
    told: list[tuple[int, int, str]] = []

    class Told(Observer):
        def advanced(self, done: int, total: int, what: str) -> None:
            told.append((done, total, what))

    with reporting_to(Told()):
        fetched("org/large")
        assert told[-1] == (7, 7, "downloading org/large (7 MB)")
        assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})
        told.clear()
        fetched("org/large", SHA)
    assert told == []


@pytest.mark.parametrize(
    ("name", "revision", "sentence"),
    [
        ("org/absent", None, r"There is no model org/absent on http://.*, or it is private; check the name"),
        ("org/model", "v2", r"org/model has no revision 'v2' on http://.*; name one that it has\."),
        ("org/closed", None, r"org/closed is gated on http://.*; ask for access there"),
        ("org/pickled", None, r"org/pickled has no safetensors on the hub, and pickles are never read"),
        ("no/such/folder", None, r"'no/such/folder' is neither a folder nor the name of a model on the hub"),
        ("../model", None, r"'\.\./model' is neither"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(
    server: Hub, model: Path, tmp_path: Path, name: str, revision: str | None, sentence: str
) -> None:
    server.repositories["org/closed"] = model
    server.gated.add("org/closed")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    server.repositories["org/pickled"] = pickled
    with pytest.raises(BadInput, match=rf"^{sentence}") as told:
        fetched(name, revision)
    assert "\n" not in str(told.value)


def test_a_hub_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointed(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(BadInput, match=r"^org/model is not in the hub's cache, and http://127.0.0.1:9 cannot be re"):
        fetched("org/model")


def test_a_hub_that_does_not_answer_is_one_sentence_in_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub._PATIENCE < 5
    monkeypatch.setattr(hub, "_PATIENCE", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        pointed(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        with pytest.raises(BadInput, match="cannot be reached"):
            fetched("org/model")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))  # a resolver that waits
    pointed(monkeypatch, "http://hub.invalid", tmp_path)
    started = time.monotonic()
    with pytest.raises(BadInput, match=r"cannot be reached \(no answer"):
        fetched("org/model")
    assert time.monotonic() - started < 4


def test_variables_of_the_environment_hold(server: Hub, tmp_path: Path) -> None:
    variables = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_CACHE": str(tmp_path / "theirs"), "NO_PROXY": "127.0.0.1"}
    code = "from redteam.hub import fetched; print(fetched('org/model'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "theirs")


@pytest.fixture
def data(tmp_path: Path, server: Hub) -> Path:
    folder = tmp_path / "data-on-the-hub"
    for name in ("one/train-00000-of-00001.parquet", "two/train-00000-of-00001.parquet", "data.py", "raw.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    server.repositories["org/data"] = folder
    return folder


def test_a_datasets_name_becomes_a_folder_of_parquet_without_its_script(data: Path) -> None:
    folder = fetched_dataset("org/data")
    taken = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert taken == {"one/train-00000-of-00001.parquet", "two/train-00000-of-00001.parquet"}
    assert commit_of(folder) == SHA


def test_of_a_dataset_one_configuration_is_fetched(data: Path, server: Hub) -> None:
    folder = fetched_dataset("org/data", part="two")
    assert [file.name for file in folder.iterdir()] == ["train-00000-of-00001.parquet"]
    assert not (folder.parent / "one").exists()
    server.status = 503
    assert fetched_dataset("org/data", part="two") == folder


def test_datasets_that_cannot_be_had_are_one_sentence(data: Path, server: Hub) -> None:
    for name, part, sentence in (
        ("org/absent", "", "There is no dataset org/absent on http://"),
        ("org/data", "three", "org/data has no Parquet in a folder 'three' on the hub"),
        ("data", "", "'data' is not the name of a dataset on the hub"),
    ):
        with pytest.raises(BadInput, match=sentence):
            fetched_dataset(name, part=part)
    for file in data.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(BadInput, match="org/data has no Parquet on the hub, and a loading script is never run"):
        fetched_dataset("org/data")
