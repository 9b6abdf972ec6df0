"""A plan: which scenarios, defenses, attacks, mergers and threat models are paired, how often."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from redteam.errors import BadPlan, hint
from redteam.evaluation.gate import Condition
from redteam.evaluation.gauntlet import Kind, is_gauntlet
from redteam.memory import size
from redteam.plugins.reference import chain_text, parse_chain
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS, Registry
from redteam.plugins.settings import shown
from redteam.plugins.shipped import defaults, shipped_file
from redteam.threat import threat_model

_NAMES = "a list of names, at least one"
_EXPECTED = {
    "scenarios": _NAMES,
    "seeds": "a number of seeds from 1 on, or a list of seeds from 0 on",
    "defenses": _NAMES,
    "keys": "a whole number from 1 on",
    "attacks": "a list of names",
    "mergers": _NAMES,
    "threats": _NAMES,
    "name": "letters, digits, - and _",
    "time_limit": "a number of seconds above 0",
    "controls": "'needed' or 'all'",
    "device": "'cpu' or 'cuda'",
    "memory": "a size such as '4GB' or '512MB'",
    "fail_on": "a list of conditions, such as 'verdict!=HOLDS-SO-FAR'",
    "also": "tables [[also]] of further products",
}
"""Entry → what may stand there, in words."""
_REGISTRIES: Mapping[str, Registry[Any]] = {
    "scenarios": SCENARIOS, "defenses": DEFENSES, "attacks": ATTACKS, "mergers": MERGERS
}  # fmt: skip

_GAUNTLETS: Mapping[str, Kind] = {"attack": "attacks", "merger": "mergers"}

Names = Annotated[tuple[str, ...], Field(min_length=1)]


def _as_by_default(kind: str) -> Any:
    """A field whose default is what the default plan says."""
    return Field(default_factory=lambda: tuple(defaults()[kind]), validate_default=True)


def no_defense() -> tuple[str, ...]:
    """Names of what leaves a victim as it is, and is not meant to protect it."""
    return DEFENSES.names_where(lambda spec: spec.exact and not spec.protects)


class Product(BaseModel):
    """Everything listed here paired with everything else.

    Attributes:
        scenarios: References to scenarios.
        seeds: Seeds; every one retrains base and experts. A number n in TOML stands for 0 to n − 1.
        defenses: References, `a+b` for chains.
        keys: How many keys each keyed defense is tried under.
        attacks: References, `a+b` for chains. Attacks that belong to every evaluation are added to them.
        mergers: References; the first one also serves the controls. Of a gauntlet of mergers those after the first
            merge only what is still locked.
        threats: Threat models, as `name` or `name:setting=value`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: Names = _as_by_default("scenarios")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    defenses: Names = Field(default_factory=no_defense, validate_default=True)
    keys: Annotated[int, Field(ge=1)] = 1
    attacks: tuple[str, ...] = ()
    mergers: Names = _as_by_default("mergers")
    threats: Names = ("weights-only",)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("scenarios", "defenses", "attacks", "mergers", mode="after")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(chain_text(parse_chain(text)) for text in value))

    @field_validator("threats", mode="after")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(threat_model(name).name for name in value))


class Plan(Product):
    """A product, and further ones beside it, with the controls that go with them.

    Attributes:
        name: What the plan is called.
        time_limit: Seconds after which a step is ended; by default 300, or 30 times what scoring base and experts took.
        device: Where it is computed, but for scenarios, which are made on the CPU: `"cpu"` or `"cuda"`, the first GPU
            that a process may use.
        memory: What all processes together may take, such as `"4GB"`; by default whatever they need.
        controls: `"needed"`: a control is computed when a verdict rests on it; `"all"`: every one that there is.
        fail_on: Conditions of the gate (`redteam.evaluation.gate`), under any of which the run leaves with 1.
        also: Further products, for curves and sweeps; what one of them leaves out is as in the plan itself.
    """

    name: str = Field(default="custom", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    time_limit: Annotated[float, Field(gt=0)] | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    memory: str | None = None
    fail_on: tuple[str, ...] = ()
    controls: Literal["needed", "all"] = "needed"
    also: tuple[Product, ...] = ()

    @field_validator("memory", mode="after")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None:
            size(value)
        return value

    @field_validator("fail_on", mode="after")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(Condition.parse(text).text for text in value)

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("also"), (list, tuple)):
            shared = {key: value for key, value in given.items() if key in Product.model_fields}
            also = [{**shared, **one} if isinstance(one, dict) else one for one in given["also"]]
            return {**given, "also": also}
        return given

    @property
    def products(self) -> tuple[Product, ...]:
        """All of them, the plan's own first."""
        own = Product.model_construct(**{key: getattr(self, key) for key in Product.model_fields})
        return (own, *self.also)

    def changed(self, values: dict[str, Any], *, origin: str = "the plan") -> Plan:
        """The plan with some values replaced, in every product that it holds.

        Raises:
            BadPlan: As `of`.
        """
        paired = {key: value for key, value in values.items() if key in Product.model_fields}
        also = [{**product.model_dump(), **paired} for product in self.also]
        return Plan.of({**self.model_dump(), **values, "also": also}, origin=origin)

    @classmethod
    def of(cls, given: dict[str, Any], *, origin: str = "the plan") -> Plan:
        """A plan from plain values.

        Raises:
            BadPlan: With the first thing that is wrong with it.
        """
        cls._require_entries(given, origin)
        try:
            # Which defense stands by default is known once all are imported: what else is wrong is said before.
            cls(**{"defenses": ("none",), **given})
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the plan"
            expected = next(_EXPECTED[part] for part in reversed(first["loc"]) if part in _EXPECTED)
            raise BadPlan(
                f"{origin} cannot be used: {where} must be {expected}, not {shown(first['input'])}."
            ) from None

    @classmethod
    def _require_entries(cls, given: Mapping[str, Any], origin: str) -> None:
        products = given.get("also")
        tables = enumerate(products if isinstance(products, (list, tuple)) else ())
        also = [(f"also.{at}.", Product, one) for at, one in tables if isinstance(one, Mapping)]
        all_of_it: list[tuple[str, type[BaseModel], Mapping[str, Any]]] = [("", cls, given), *also]
        for where, model, entries in all_of_it:
            for key in entries:
                if key not in model.model_fields:
                    known = hint(key, list(model.model_fields), "known:")
                    raise BadPlan(f"{origin} has an entry {where + key!r} that means nothing; {known}")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Reads a TOML file.

        Raises:
            BadPlan: If it isn't there, isn't TOML, isn't a plan, or names a plugin file outside its folder.
        """
        return cls.of({"name": path.stem, **_given(path)}, origin=f"The plan {path}")


def require_names(given: Mapping[str, Any], folder: Path) -> None:
    """Looks up what a plan names before anything is imported for it: torch takes seconds, a slip shows at once.

    Args:
        given: A plan's values, or some of them, as they were written; what is no list of texts is passed over.
        folder: Where relative paths of files start.

    Raises:
        BadInput: As `redteam.plugins.registry.Registry.require`.
    """
    for registry, text in _named(given):
        kind = _GAUNTLETS.get(registry.kind)
        if kind is None or not is_gauntlet(text, kind):
            registry.require_all(text, folder=folder)


def find_plan(plan: Plan | Mapping[str, Any] | str | Path) -> tuple[Plan, Path]:
    """A plan, and the folder against which its relative paths are read.

    Args:
        plan: A plan, its values, the name of one that ships, or a TOML file (its name ends in .toml).

    Raises:
        RedteamError: If there is none, or it cannot be used.
    """
    if isinstance(plan, Plan):
        return plan, Path()
    if isinstance(plan, Mapping):
        return Plan.of(dict(plan)), Path()
    path = Path(plan)
    if path.suffix == ".toml":
        return _read(path)
    file = shipped_file("plan", str(plan))
    return _read(file)


def _read(file: Path) -> tuple[Plan, Path]:
    given = _given(file)
    require_names(given, file.parent)
    return Plan.of({"name": file.stem, **given}, origin=f"The plan {file}"), file.parent


def run_folder(plan: Plan, out: str | Path | None) -> Path:
    """Where a run's results and finished steps go: `out`, or `runs/NAME`."""
    return Path(out) if out is not None else Path("runs") / plan.name


def _given(path: Path) -> dict[str, Any]:
    """What a file says. A plan may come from elsewhere, and the Python files that it names are run."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadPlan(
            f"The plan {path} cannot be read ({error.strerror}); name a TOML file or a plan that ships."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadPlan(f"The plan {path} is not TOML ({error}).") from None
    home = path.parent.resolve()
    for _, text in _named(given):
        for reference in parse_chain(text):
            if reference.file and not (home / Path(reference.file).expanduser()).resolve().is_relative_to(home):
                raise BadPlan(
                    f"The plan {path} names {reference.file}, which lies outside its folder; move the file there, "
                    "or name the plugin on the shell."
                )
    return given


def _named(given: Mapping[str, Any]) -> Iterator[tuple[Registry[Any], str]]:
    """Every text of a plan's values that names a plugin, and where it is registered; what is no text has no name."""
    for kind, registry in _REGISTRIES.items():
        named = given.get(kind)
        for text in named if isinstance(named, (list, tuple)) else ():
            if isinstance(text, str):
                yield registry, text
    also = given.get("also")
    for one in also if isinstance(also, (list, tuple)) else ():
        if isinstance(one, dict):
            yield from _named(one)
