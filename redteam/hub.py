"""Models and datasets by their hub name: fetched once through huggingface_hub's cache, without pickles or code."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from redteam.errors import BadInput, NotACheckpoint
from redteam.events import current
from redteam.files import require_model

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo

T = TypeVar("T")


@dataclass(frozen=True)
class _Kind:
    """What can be fetched.

    Attributes:
        name: As the hub calls it.
        needed: What it must have.
        taken, left: Patterns of the files that are fetched, and of those among them that are not.
        lacks: What is said of one without what is needed.
    """

    name: Literal["model", "dataset"]
    needed: str
    taken: tuple[str, ...]
    left: tuple[str, ...]
    lacks: str


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = "*.safetensors"
_TEXTS = ("*.json", "*.txt", "*.md", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.bpe", "*.vocab", "LICEN*")
_COPIES = ("onnx/*", "openvino/*", "original/*", "*/.*", ".*")  # the same weights in other formats
_MODEL = _Kind(
    "model",
    _WEIGHTS,
    (_WEIGHTS, *_TEXTS),
    _COPIES,
    "has no safetensors on the hub, and pickles are never read; name a model that has.",
)
_CONFIG = _Kind("model", "config.json", ("config.json",), (), "has no config.json on the hub; name a model that has.")
_DATASET = _Kind(
    "dataset",
    "*.parquet",
    ("*.parquet", "README.md", "LICEN*"),
    (".*", "*/.*"),
    "has no Parquet on the hub, and a loading script is never run; name the revision 'refs/convert/parquet', where the "
    "hub has converted it, or a folder.",
)
_PATIENCE = 4.0  # seconds in which the hub has to answer; with what comes before and after, the user waits five
_WATCHED = 0.2  # seconds between looks at a download
_MEGABYTE = 1_000_000


def fetched(name: str, revision: str | None = None) -> Path:
    """The folder of a model: a local one as it is, one of the hub from its cache, downloaded where that lacks it.

    Only safetensors, configs, tokenizers and texts are taken. `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and the
    user's token hold as everywhere. Without a network, what the cache has whole is used.

    Args:
        name: A folder, or a name such as `org/model`.
        revision: A branch, tag or commit of the hub's; the main branch by default. `commit_of` says what it came to.

    Raises:
        BadInput: If there is no such model, it is gated, has no safetensors, or cannot be reached; within 5 seconds,
            where the hub does not answer.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_name(name):
        raise BadInput(
            f"{name!r} is neither a folder nor the name of a model on the hub; expected for example org/name."
        )
    return _fetched(_MODEL, name, revision)


def fetched_config(name: str, revision: str | None = None) -> Path:
    """The folder of a model of which the config alone is taken; else as `fetched`."""
    return _fetched(_CONFIG, name, revision)


def of_hub(path: Path) -> tuple[str, str | None] | None:
    """Name and revision, where what was written as a path is a name of the hub's, `org/model` or `org/model@revision`.

    `None` where something lies there or beside it, or what is named is a file: that is a path, if a mistyped one.
    """
    name, _, revision = path.as_posix().partition("@")
    local = path.parent.exists() or path.suffix in (".json", ".safetensors")
    return None if local or not is_hub_name(name) else (name, revision or None)


def on_disk(path: Path, fetch: Callable[[str, str | None], Path] = fetched) -> Path:
    """Where a model is on the disk: a path as it is; of a name of the hub's, the folder in its cache.

    Args:
        path: As it was written.
        fetch: What fetches it: `fetched` or `fetched_config`.

    Raises:
        NotACheckpoint: If there is nothing at the path, or the hub's model cannot be had.
    """
    named = of_hub(path)
    if named is None:
        require_model(path)
        return path
    try:
        return fetch(*named)
    except BadInput as error:
        told = str(error)
        raise NotACheckpoint(f"Nothing lies at {path}, and {told[0].lower()}{told[1:]}") from None


def fetched_dataset(name: str, revision: str | None = None, part: str = "") -> Path:
    """The folder of a dataset of the hub, of which Parquet files alone are taken; else as `fetched`.

    Args:
        name: Such as `org/data`.
        revision: A branch, tag or commit of the hub's.
        part: The folder of one configuration; the whole dataset by default.

    Raises:
        BadInput: If there is no such dataset, it is gated, has no Parquet there, or cannot be reached.
    """
    if not is_hub_name(name):
        raise BadInput(f"{name!r} is not the name of a dataset on the hub; expected for example org/name.")
    if not part:
        return _fetched(_DATASET, name, revision)
    lacks = f"has no Parquet in a folder {part!r} on the hub; name one that it has."
    kind = replace(_DATASET, needed=f"{part}/*.parquet", taken=(f"{part}/*.parquet", "README.md"), lacks=lacks)
    return _fetched(kind, name, revision) / part


def _fetched(kind: _Kind, name: str, revision: str | None) -> Path:
    if revision is not None and _COMMIT.fullmatch(revision) and (found := _cached(kind, name, revision)):
        return found
    info = _resolved(kind, name, revision)
    return info if isinstance(info, Path) else _downloaded(kind, name, revision, info)


def is_hub_name(name: str) -> bool:
    """Whether a text is written as the hub's names are, `org/name`."""
    return len(name) <= 96 and bool(_NAME.fullmatch(name)) and ".." not in name and "--" not in name


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds, 40 hexadecimal digits; `None` of any other folder."""
    place = folder.absolute()
    return place.name if place.parent.name == "snapshots" and _COMMIT.fullmatch(place.name) else None


def _resolved(kind: _Kind, name: str, revision: str | None) -> ModelInfo | DatasetInfo | Path:
    """What the hub says of a revision; where it cannot be asked, the folder that the cache has of it."""
    from huggingface_hub import HfApi

    def asked() -> Any:
        return HfApi().repo_info(name, revision=revision, repo_type=kind.name, files_metadata=True, timeout=_PATIENCE)

    try:
        return _in_time(asked, _PATIENCE)
    except Exception as error:  # also of the network, from whichever library speaks HTTP today
        if sentence := _refusal(kind, name, revision, error):
            raise BadInput(sentence) from None
        if folder := _cached(kind, name, revision):
            return folder
        what = name if revision is None else f"{name} at {revision}"
        raise BadInput(f"{what} is not in the hub's cache, and {_silence(kind, error)}.") from None


def _refusal(kind: _Kind, name: str, revision: str | None, error: Exception) -> str:
    """What the hub's answer says in a sentence; empty if there was none."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated on {hub}; ask for access there and log in with `hf auth login`, or name a folder."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r} on {hub}; name one that it has."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no {kind.name} {name} on {hub}, or it is private; check the name, log in with `hf auth login`, "
            "or name a folder."
        )
    return ""


def _silence(kind: _Kind, error: Exception) -> str:
    """Why there was no answer, and what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set; unset it once, or name a folder that has the {kind.name}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{constants.ENDPOINT} answered {error.response.status_code}; try again later, or name a folder"
    why = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{constants.ENDPOINT} cannot be reached ({why}); connect once, or name a folder that has the {kind.name}"


def _cached(kind: _Kind, name: str, revision: str | None) -> Path | None:
    """The folder that the cache has whole, as far as that can be told without the hub."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            name,
            repo_type=kind.name,
            revision=revision,
            local_files_only=True,
            allow_patterns=[*kind.taken],
            ignore_patterns=[*kind.left],
        )
    except (errors.IncompleteSnapshotError, errors.LocalEntryNotFoundError):
        return None
    return Path(folder) if any(Path(folder).rglob(kind.needed)) else None


def _downloaded(kind: _Kind, name: str, revision: str | None, info: ModelInfo | DatasetInfo) -> Path:
    """The folder of a revision in the cache, with what was still missing there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    taken = [*filter_repo_objects(sizes, allow_patterns=[*kind.taken], ignore_patterns=[*kind.left])]
    if not any(fnmatch(file, kind.needed) for file in taken):
        raise BadInput(f"{name} {kind.lacks}")
    received = _received()
    work = _Apart(
        lambda: snapshot_download(
            name,
            revision=revision,  # not the commit it came to: the cache has to know the branch's without a network
            repo_type=kind.name,
            allow_patterns=[*kind.taken],
            ignore_patterns=[*kind.left],
            tqdm_class=received,
            etag_timeout=_PATIENCE,
        )
    )
    total = max(1, sum(sizes[file] for file in taken) // _MEGABYTE)
    told, text, observer = -1, f"downloading {name} ({total} MB)", current()
    while not work.ended(_WATCHED):
        if told < (now := min(received.most // _MEGABYTE, total - 1)):
            told = now
            observer.advanced(told, total, text)
    try:
        folder = Path(work.result())
    except Exception as error:
        why = " ".join(str(error).split())[:160] or type(error).__name__
        sentence = f"{name} could not be downloaded ({why.rstrip('.')}); run the same command again to go on."
        raise BadInput(_refusal(kind, name, revision, error) or sentence) from None
    if told >= 0 or received.most:  # it may be over before anybody looked
        observer.advanced(total, total, text)
    return folder


class _Apart:
    """Work in a thread of its own, which does not keep the process from ending."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._value = work()
        except BaseException as error:
            self._error = error

    def ended(self, seconds: float) -> bool:
        """Whether it has ended, after waiting for it at most so long."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """What it gave, or raised."""
        if self._error is not None:
            raise self._error
        return self._value


def _in_time(work: Callable[[], T], seconds: float) -> T:
    """What some work gives, if it does in time: looking up a host has no limit of its own.

    Raises:
        TimeoutError: If it does not.
    """
    started = time.monotonic()
    apart = _Apart(work)
    if not apart.ended(seconds):
        raise TimeoutError(f"no answer in {time.monotonic() - started:.0f} s")
    return apart.result()  # type: ignore[no-any-return]


def _received() -> Any:
    """A silent stand-in for the bars of huggingface_hub, whose attribute `most` counts the bytes that came."""
    from tqdm.std import tqdm

    class Received(tqdm):  # type: ignore[misc]
        most = 0

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self._bytes = settings.get("unit") == "B"
            super().__init__(*arguments, **{**settings, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self._bytes:  # several bars count the same bytes
                Received.most = max(Received.most, int(self.n))
            return None

    return Received
