"""A plan: which scenarios, defenses, attacks, mergers and threat models are paired, how often."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from redteam.errors import BadPlan
from redteam.plugins.reference import chain_text, parse_chain
from redteam.plugins.registry import DEFENSES
from redteam.plugins.shipped import defaults
from redteam.threat import threat_model

Names = Annotated[tuple[str, ...], Field(min_length=1)]


def _as_by_default(kind: str) -> Any:
    """A field whose default is what the default plan says."""
    return Field(default_factory=lambda: tuple(defaults()[kind]), validate_default=True)


def _no_defense() -> tuple[str, ...]:
    """What leaves a victim as it is, and is not meant to protect it."""
    return DEFENSES.names_where(lambda spec: spec.exact and not spec.protects)


class Product(BaseModel):
    """Everything listed here paired with everything else.

    Attributes:
        scenarios: References to scenarios.
        seeds: Seeds; every one retrains base and experts. A number n in TOML stands for 0 to n − 1.
        defenses: References, `a+b` for chains.
        keys: How many keys each keyed defense is tried under.
        attacks: References, `a+b` for chains. Attacks that belong to every evaluation are added to them.
        mergers: References; the first one also serves the controls.
        threats: Threat models, as `name` or `name:setting=value`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: Names = _as_by_default("scenarios")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    defenses: Names = Field(default_factory=_no_defense, validate_default=True)
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
        controls: `"needed"`: a control is computed when a verdict rests on it; `"all"`: every one that there is.
        also: Further products, for curves and sweeps; what one of them leaves out is as in the plan itself.
    """

    name: str = Field(default="custom", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    time_limit: Annotated[float, Field(gt=0)] | None = None
    controls: Literal["needed", "all"] = "needed"
    also: tuple[Product, ...] = ()

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
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the plan"
            if first["type"] == "extra_forbidden":
                raise BadPlan(
                    f"{origin} has an entry {where!r} that means nothing; known: {', '.join(cls.model_fields)}."
                ) from None
            raise BadPlan(f"{origin} cannot be used: {where}: {first['msg'].removeprefix('Value error, ')}.") from None

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Reads a TOML file.

        Raises:
            BadPlan: If it isn't there, isn't TOML, isn't a plan, or names a plugin file outside its folder.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadPlan(
                f"The plan {path} cannot be read ({error.strerror}); name a TOML file or a plan that ships."
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadPlan(f"The plan {path} is not TOML ({error}).") from None
        plan = cls.of({"name": path.stem, **given}, origin=f"The plan {path}")
        plan._require_inside(path)
        return plan

    def _require_inside(self, path: Path) -> None:
        """A plan may come from elsewhere, and the Python files that it names are run."""
        home = path.parent.resolve()
        named = (text for p in self.products for text in (*p.scenarios, *p.defenses, *p.attacks, *p.mergers))
        for text in named:
            for reference in parse_chain(text):
                if reference.file and not (home / Path(reference.file).expanduser()).resolve().is_relative_to(home):
                    raise BadPlan(
                        f"The plan {path} names {reference.file}, which lies outside its folder; move the file there, "
                        "or name the plugin on the shell."
                    )
