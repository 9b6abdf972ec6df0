"""The study behind a search: which chain of plugins next, and what came of every one, in any storage that optuna has.

The sampler is the multi-objective tree-structured Parzen estimator. Its parameters may depend on one another, and it
learns from some ten trials on, where NSGA-II, optuna's default for several objectives, would draw a first generation of
50 at random. It begins with every plugin alone at its defaults, which is what is known without any search.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from redteam.errors import BadInput
from redteam.extras import require_extra
from redteam.search.space import Space

if TYPE_CHECKING:
    import optuna

_LEARNED = 10  # so many repeated proposals in a row are the sampler's, the next ones random
_PATIENCE = 100  # so many in a row, and there is nothing new


class Row(Protocol):
    """What a study keeps of a trial: a model of pydantic's."""

    @property
    def number(self) -> int:
        """Its number in the study."""

    def model_dump(self, *, mode: str, exclude: set[str]) -> dict[str, Any]:
        """As plain values."""


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Goal(Generic[R]):
    """What a search is for.

    Attributes:
        row: The class of its trials, made of a number, a pipeline and what was measured.
        directions: What is optimised, and whether more or less of it is better.
        values: What was measured of one; `None` where there are no figures, which the sampler takes as worse than any.
    """

    row: Callable[..., R]
    directions: Mapping[str, Literal["maximize", "minimize"]]
    values: Callable[[R], Sequence[float] | None]


@dataclass
class Proposal:
    """A chain to try.

    Attributes:
        pipeline: As `redteam run` takes it.
        handle: By which the study knows it.
    """

    pipeline: str
    handle: Any


class Study(Generic[R]):
    """Trials in a storage that outlives the process.

    Args:
        goal: What is searched for.
        storage: An optuna storage URL.
        name: The study's name there.
        about: What the search is about, as plain values. A study of something else is refused.
        space: From which chains are drawn.
        seed: With what was tried before, it decides what is tried next.
        wanted: How many trials are asked for; half of them at most are plugins alone.
        owner: Tells this search's unfinished trials from those of others in the same storage.

    Raises:
        BadInput: If optuna is not installed, the storage cannot be used, or its study is about something else.
    """

    def __init__(
        self,
        goal: Goal[R],
        storage: str,
        name: str,
        *,
        about: Mapping[str, Any],
        space: Space,
        seed: int,
        wanted: int,
        owner: str,
    ) -> None:
        self.goal, self.space, self.seed, self.wanted, self.owner = goal, space, seed, wanted, owner
        self.singles = list(space.singles())[: wanted // 2]
        self.exhausted = False
        require_extra("optuna", "A search")
        with _quiet():
            self._storage, self._study = _opened(storage, name, goal.directions)
            _require_same(self._study, about, name)
            self._drop_interrupted()

    @property
    def trials(self) -> tuple[R, ...]:
        """What has ended, every chain once, in order."""
        return tuple(
            self.goal.row(number=trial.number, **trial.user_attrs["result"])
            for trial in self._study.get_trials(deepcopy=False)
            if "result" in trial.user_attrs
        )

    @property
    def repeated(self) -> int:
        """How many proposals had been tried before."""
        return sum("again" in trial.user_attrs for trial in self._study.get_trials(deepcopy=False))

    def ask(self) -> Proposal | None:
        """The next chain that nobody has tried, `None` if none turns up."""
        from optuna.trial import TrialState

        with _quiet():
            for attempt in range(_PATIENCE):
                past = [t for t in self._study.get_trials(deepcopy=False) if not _interrupted(t)]
                known = {t.user_attrs["pipeline"]: t.number for t in past if "pipeline" in t.user_attrs}
                turn = sum(t.state != TrialState.WAITING for t in past)
                if turn < len(self.singles):
                    self._study.enqueue_trial(self.singles[turn], skip_if_exists=True)
                self._study.sampler = self._sampler(turn, learned=attempt < _LEARNED)
                handle = self._study.ask()
                handle.set_user_attr("owner", self.owner)
                pipeline = self.space.draw(handle)
                if pipeline not in known:
                    handle.set_user_attr("pipeline", pipeline)
                    return Proposal(pipeline, handle)
                handle.set_user_attr("again", known[pipeline])
                self._study.tell(handle, state=TrialState.FAIL)
        self.exhausted = True
        return None

    def proposals(self, deadline: float | None) -> Iterator[Proposal]:
        """What to try next, one after the other, until there are as many trials as are wanted or nothing new turns up.

        Args:
            deadline: The `time.monotonic()` from which on no trial is begun; `None` for never.
        """
        while len(self.trials) < self.wanted and (deadline is None or time.monotonic() < deadline):
            proposal = self.ask()
            if proposal is None:
                return
            yield proposal

    def tell(self, proposal: Proposal, measured: Mapping[str, Any]) -> R:
        """Enters what came of a proposal."""
        from optuna.trial import TrialState

        told = self.goal.row(number=proposal.handle.number, pipeline=proposal.pipeline, **measured)
        values = self.goal.values(told)
        with _quiet():
            proposal.handle.set_user_attr("result", told.model_dump(mode="json", exclude={"number"}))
            if values is None:
                self._study.tell(proposal.handle, state=TrialState.PRUNED)
            else:
                self._study.tell(proposal.handle, tuple(values))
        return told

    def close(self) -> None:
        """Lets go of the storage."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _sampler(self, turn: int, *, learned: bool) -> optuna.samplers.BaseSampler:
        """Seeded anew for every turn, so that a search that was stopped goes on as if it had not been."""
        from optuna.samplers import RandomSampler, TPESampler

        digest = hashlib.sha256(f"redteam search\0{self.seed}\0{turn}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        return TPESampler(seed=seed) if learned else RandomSampler(seed=seed)

    def _drop_interrupted(self) -> None:
        """What was being tried when this search was killed is tried again."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("owner", self.owner) == self.owner:
                self._study.tell(trial.number, state=TrialState.FAIL)


def default_storage(root: Path) -> str:
    """A file in the search's own folder, which needs no server and survives a kill."""
    return f"sqlite:///{(root / 'study.db').absolute()}"


def _interrupted(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial has ended without anything having come of it: neither figures nor a reason nor a repetition."""
    return trial.state.name == "FAIL" and not {"result", "again"} & set(trial.user_attrs)


def require_storage(storage: str) -> None:
    """Refuses a storage that cannot be used, before anything is computed that would go there.

    Args:
        storage: An optuna storage URL.

    Raises:
        BadInput: If optuna is not installed, or the storage cannot be used.
    """
    require_extra("optuna", "A search")
    import optuna

    with _quiet(), _telling(storage):
        opened = optuna.storages.RDBStorage(storage)
        opened.remove_session()
        opened.engine.dispose()


def _opened(
    storage: str, name: str, directions: Mapping[str, Literal["maximize", "minimize"]]
) -> tuple[optuna.storages.RDBStorage, optuna.Study]:
    import optuna

    with _telling(storage):
        opened = optuna.storages.RDBStorage(storage)
        study = optuna.create_study(
            storage=opened, study_name=name, directions=list(directions.values()), load_if_exists=True
        )
        study.set_metric_names(list(directions))
    return opened, study


@contextmanager
def _telling(storage: str) -> Iterator[None]:
    """Tells in a sentence that a storage cannot be used."""
    try:
        yield
    except Exception as error:  # each driver has its own, and a URL may hold a password
        scheme = storage.partition("://")[0] + "://…" if "://" in storage else "that was named"
        raise BadInput(
            f"The storage {scheme} cannot be used ({type(error).__name__}); name an optuna "
            "storage URL whose driver is installed and whose place can be written, such as sqlite:///study.db."
        ) from None


def _require_same(study: optuna.Study, about: Mapping[str, Any], name: str) -> None:
    past = study.user_attrs.get("about")
    if past is None:
        study.set_user_attr("about", dict(about))
        return
    for key, value in about.items():
        if past.get(key) != value:
            was, now = (_shown(one) for one in (past.get(key), value))
            raise BadInput(
                f"The study {name!r} is about another {key} ({was}; this command says {now}); name another folder with "
                "--out, or another study with --study where you named a storage."
            )


def _shown(value: Any) -> str:
    for kind in ("attacks", "defenses"):
        if isinstance(value, Mapping) and kind in value:
            names: Sequence[str] = list(value[kind])
            return f"{len(names)} {kind}, up to {value['steps']} in a row: {', '.join(names)}"
    return str(value)[:80]


def coarse(cost: float, least: float) -> float:
    """To a power of two: less than that is noise of the machine, from which the sampler should learn nothing."""
    return float(2.0 ** round(math.log2(max(cost, least))))


@contextmanager
def _quiet() -> Iterator[None]:
    """optuna tells of every study and trial; what matters of that is said elsewhere."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
