"""What a plugin says about itself: a spec per kind, attached to a plain function by a decorator.

The function stays what it was, so that it can be called on views by hand; its keyword-only parameters are its settings
(`redteam.plugins.settings`).

    @attack("hungarian", breaks={("mlp", Permutation)}, needs=Needs.ANCHOR, paper="arXiv:2209.04836")
    def hungarian(view: AttackerView, *, sites: tuple[str, ...] = ("mlp",)) -> Checkpoint: ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from redteam.plugins.remarks import Remark

SPEC = "__redteam__"
"""The attribute under which a plugin's function carries its spec."""

F = TypeVar("F", bound=Callable[..., Any])
Role = Literal["naive", "recovery", "trivial", "ceiling", "anew", "interface"]


class Needs(Flag):
    """What an attack asks of its view beyond the protected checkpoint; a threat model grants it or not."""

    NONE = 0
    ANCHOR = auto()
    """A checkpoint from before the lock: the public base, or a companion where the base is withheld."""
    COMPANIONS = auto()
    """Experts of the attacker's own tasks."""
    INPUTS = auto()
    """Unlabelled inputs of the victim's task."""
    SAMPLES = auto()
    """Labelled samples of the victim's task."""
    KEY = auto()
    """The defender's key."""
    CODE = auto()
    """The defense's code, which takes a key; there is none to take where a defense draws on no key."""
    RELEASES = auto()
    """Further releases of the same victim, protected alike under other keys."""
    SIBLINGS = auto()
    """An expert of the attacker's own as the victim's owner would publish it: the same defense, the same key."""
    OUTPUTS = auto()
    """Answers of the protected model to inputs of the attacker's own. Whoever asks for them never sees its weights."""

    @classmethod
    def written(cls, source: str) -> Needs:
        """What the source of an expression names, such as `Needs.ANCHOR | Needs.KEY`."""
        named = re.findall(r"\bNeeds\.(\w+)", source)
        return reduce(or_, (cls[name] for name in named if name in cls.__members__), cls.NONE)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every kind of plugin says about itself.

    Raises:
        ValueError: If the name is not made of lower-case letters, digits and hyphens, a letter first.
    """

    kind: ClassVar[str] = "plugin"
    name: str
    paper: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.name):
            raise ValueError(f"a plugin's name is lower-case words joined by hyphens, not {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class AttackSpec(Spec):
    """What an attack claims.

    Attributes:
        breaks: Pairs of a site's kind (`"qk"`, `"vo"`, `"mlp"`, `"heads"`, `"queries"`, `"norm"`) and a class of groups
            from `redteam.symmetry`. Each is planted in every evaluation; an attack that doesn't undo what it claims to
            undo is no evidence.
        needs: What its view must grant.
        role: `"recovery"` for an attack proper; `"naive"` for none at all; `"trivial"` for one that must steal nothing;
            `"ceiling"` for the holder of the key; `"anew"` for training such an expert from the base with everything
            that the owner has, which is what stealing is priced against; `"interface"` for what the answers alone give
            away, which no protection of weights can keep: its theft is the line that others are measured from.
        always: Whether it belongs to every evaluation, asked for or not.
        targets: Names of the defenses that it was made for; `redteam.plugins.targets` says which plugin a name means.
        keeps_function: Whether it only changes the basis, so that its result computes what the protected model does.
        changes_architecture: Whether names and shapes of tensors may differ from the protected model's.
        factors: Whether it rewrites the factors of a low-rank adapter in place of weights. `redteam attack` then takes
            an adapter; no run does, since runs merge adapters into whole models.
        renumbers: Whether it gives tokens other numbers (`redteam.checkpoint.numbering`). `redteam attack` then reads
            the tokenizers of both folders and writes one that fits.
        paper: Where it comes from.
    """

    kind: ClassVar[str] = "attack"
    breaks: frozenset[tuple[str, type]] = frozenset()
    needs: Needs = Needs.NONE
    role: Role = "recovery"
    always: bool = False
    targets: tuple[str, ...] = ()
    keeps_function: bool = False
    changes_architecture: bool = False
    factors: bool = False
    renumbers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.role not in get_args(Role):
            raise ValueError(f"the role of {self.name!r} is one of {', '.join(get_args(Role))}, not {self.role!r}")


@dataclass(frozen=True, kw_only=True)
class DefenseSpec(Spec):
    """What a defense claims.

    Attributes:
        exact: Whether the protected model computes exactly what the victim did, up to rounding; of a sealed one, the
            model as whoever holds the key runs it.
        keyed: Whether it draws on a key, so that it is worth trying under several.
        changes_architecture: Whether names and shapes of tensors may differ from the victim's.
        weakened: Settings under which an attack that targets this defense must succeed, so that its failure against the
            full defense says something.
        adapts: Whether it takes a smaller group where an architecture does not allow its own, and says so.
        protects: Whether it is meant to protect; gates do not speak of those that are there for comparison alone.
        factors: Whether it rewrites the factors of a low-rank adapter in place of weights. `redteam protect` then takes
            an adapter and writes one; no run does, since runs merge adapters into whole models.
        renumbers: Whether it gives tokens other numbers, and the tokenizer that is published with the model with it
            (`redteam.checkpoint.numbering`). What it returns says which (`NUMBERS`), as such a tokenizer does.
        sealed: Whether what is released does not run alone, since an enclave or the user holds the rest. It puts its
            `view.locks` on, and whoever holds the key runs the model without them; it is judged under threat models
            that say so (`ThreatModel.sealed`) and under no other.
        prepares: Whether it trains the victim for the lock that follows it in a chain. What follows is then measured
            against the prepared victim, unlocked, in place of the victim itself.
        claim: What its source reports of it, in a sentence with figures and models, and how sure the figures are: shown
            beside what was found, never used.
        paper: Where it comes from.
    """

    kind: ClassVar[str] = "defense"
    exact: bool
    keyed: bool
    protects: bool = True
    adapts: bool = False
    sealed: bool = False
    prepares: bool = False
    factors: bool = False
    renumbers: bool = False
    changes_architecture: bool = False
    weakened: Mapping[str, Any] | None = None
    claim: str = ""


LAWS: Mapping[str, str] = {
    "identical": "identical experts give the expert",
    "order": "the order of the experts is irrelevant",
    "permutation": "a permutation of rows and columns, put on all experts and the base, commutes with the merge",
    "rotation": "so does a rotation",
    "still": "task vectors of zeros give the base",
}
"""What a merger may say of itself."""


@dataclass(frozen=True, kw_only=True)
class MergerSpec(Spec):
    """What a merger says about itself.

    Attributes:
        tunable: The setting that the evaluation chooses on the companions-only merge, from its `Range`, or `None`.
        needs_base: Whether it starts from the base, which some threat models withhold.
        needs: What it takes of every expert's task, the victim's too: `Needs.INPUTS`, `Needs.SAMPLES` or nothing. Its
            setting `samples` says how many at most, and where a threat model grants fewer of the victim's it is left
            out.
        whole: Whether it keeps every expert whole (masks, routing) and so returns a `Whole`, not a checkpoint. It is
            tried as the others are and shown beside them with what it costs, and no verdict counts it: what keeps
            the protected model as it is has merged nothing.
        holds: Which of `LAWS` hold at its default settings; of each other law there is a counterexample.
        paper: Where it comes from.
    """

    kind: ClassVar[str] = "merger"
    tunable: str | None = None
    needs_base: bool = True
    needs: Needs = Needs.NONE
    whole: bool = False
    holds: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.needs not in (Needs.NONE, Needs.INPUTS, Needs.SAMPLES):
            raise ValueError(f"the merger {self.name!r} needs INPUTS or SAMPLES or nothing, not {self.needs}")


@dataclass(frozen=True, kw_only=True)
class ScenarioSpec(Spec):
    """A base, its experts and their tasks, made or loaded by a function of settings alone.

    Attributes:
        state: Its settings → a text that changes whenever what they name on the disk does; `None` where they name
            nothing. It is asked before every run, and so has to be quick.
        check: Its settings → what is to be said of what they name before models and data are read as a whole: an
            iterable of `redteam.plugins.remarks.Remark`.
        about: Its settings → pairs of a word and what `redteam show` says under it: tasks, sizes, licences, where it is
            kept.
        propose: A folder, where a file will be written, and the victim asked for or none → the text of a file that this
            scenario reads, made of the models and data that are found in the folder; it raises `BadInput` where there
            is nothing. For a scenario that reads files.
        victims: Its settings → the tasks that are to be the victim in turn, each by the setting `victim`; empty where
            these settings have one victim. It is asked before every run, and so has to be quick.
    """

    kind: ClassVar[str] = "scenario"
    state: Callable[..., str] | None = None
    check: Callable[..., Iterable[Remark]] | None = None
    about: Callable[..., Iterable[tuple[str, str]]] | None = None
    propose: Callable[[Path, Path, str | None], str] | None = None
    victims: Callable[..., Iterable[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class ReportSpec(Spec):
    """A writer of results; its name is the file extension. Of a function without a decorator it is derived."""

    kind: ClassVar[str] = "report"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", self.name):
            raise ValueError(f"a report's name is a file extension, such as 'md' or 'junit.xml', not {self.name!r}")


def attack(
    name: str,
    *,
    breaks: Iterable[tuple[str, type]] = (),
    needs: Needs = Needs.NONE,
    role: Role = "recovery",
    always: bool = False,
    targets: Iterable[str] = (),
    keeps_function: bool = False,
    changes_architecture: bool = False,
    factors: bool = False,
    renumbers: bool = False,
    paper: str = "",
) -> Callable[[F], F]:
    """Declares `fn(view: AttackerView, *, settings…) -> Checkpoint` an attack; see `AttackSpec`."""
    return _carry(
        AttackSpec(
            name=name,
            breaks=frozenset(breaks),
            needs=needs,
            role=role,
            always=always,
            targets=tuple(targets),
            keeps_function=keeps_function,
            changes_architecture=changes_architecture,
            factors=factors,
            renumbers=renumbers,
            paper=paper,
        )
    )


def defense(
    name: str,
    *,
    exact: bool,
    keyed: bool,
    changes_architecture: bool = False,
    weakened: Mapping[str, Any] | None = None,
    protects: bool = True,
    adapts: bool = False,
    sealed: bool = False,
    prepares: bool = False,
    factors: bool = False,
    renumbers: bool = False,
    claim: str = "",
    paper: str = "",
) -> Callable[[F], F]:
    """Declares `fn(view: DefenderView, *, settings…) -> Checkpoint` a defense; see `DefenseSpec`."""
    return _carry(
        DefenseSpec(
            name=name,
            exact=exact,
            keyed=keyed,
            changes_architecture=changes_architecture,
            weakened=weakened,
            protects=protects,
            adapts=adapts,
            sealed=sealed,
            prepares=prepares,
            factors=factors,
            renumbers=renumbers,
            claim=claim,
            paper=paper,
        )
    )


def merger(
    name: str,
    *,
    tunable: str | None = None,
    needs_base: bool = True,
    needs: Needs = Needs.NONE,
    whole: bool = False,
    holds: Iterable[str] = (),
    paper: str = "",
) -> Callable[[F], F]:
    """Declares `fn(view: MergerView, *, settings…) -> Checkpoint` a merger, or `-> Whole`; see `MergerSpec`."""
    return _carry(
        MergerSpec(
            name=name,
            tunable=tunable,
            needs_base=needs_base,
            needs=needs,
            whole=whole,
            holds=frozenset(holds),
            paper=paper,
        )
    )


def scenario(
    name: str,
    *,
    state: Callable[..., str] | None = None,
    check: Callable[..., Iterable[Remark]] | None = None,
    about: Callable[..., Iterable[tuple[str, str]]] | None = None,
    propose: Callable[[Path, Path, str | None], str] | None = None,
    victims: Callable[..., Iterable[str]] | None = None,
    paper: str = "",
) -> Callable[[F], F]:
    """Declares `fn(*, seed: int = 0, settings…) -> Scenario` a scenario; see `ScenarioSpec`."""
    return _carry(
        ScenarioSpec(name=name, state=state, check=check, about=about, propose=propose, victims=victims, paper=paper)
    )


def report(name: str) -> Callable[[F], F]:
    """Declares `fn(results: Results, path: Path) -> None` a writer of reports, by the extension of its files."""
    return _carry(ReportSpec(name=name))


def spec_of(function: object) -> Spec | None:
    """The spec that a function carries, `None` if it is no plugin."""
    spec = getattr(function, SPEC, None)
    return spec if isinstance(spec, Spec) else None


def _carry(spec: Spec) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        setattr(function, SPEC, spec)
        return function

    return decorate
