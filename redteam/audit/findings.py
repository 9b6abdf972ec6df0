"""What an audit found: the contract for scripts, written as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from redteam.notebook import html

State = Literal["equal", "unlocked", "locked", "unexplained", "reshaped"]
Standing = Literal["shared", "apart", "one", "neither", "reshaped"]


class Model(BaseModel):
    """Values that do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShiftFinding(Model):
    """An additive shift that the function does not see.

    Attributes:
        kind: Which freedom it uses, such as `"read"` or `"key bias"`.
        side: Which of the site's maps it adds to, empty where there is one of its kind.
        size: How large it is, in standard deviations of the weights that it is added to (root mean square).
    """

    kind: str
    side: str = ""
    size: float


class SiteFinding(Model):
    """What is on one site.

    Attributes:
        site: Its label, such as `"qk/3"`.
        kind: Its kind.
        part: Which of several of its kind in a layer, such as a norm of the MLP or a tower of a CLIP; empty if one.
        layer: Counted from 0.
        state: `"equal"` to the base bit for bit; `"unlocked"`: no legal gauge explains more than half of the distance;
            `"locked"`: one of `group` does; `"unexplained"`: as far from the base as a stranger, whatever the gauge;
            `"reshaped"`: of another shape than the base's.
        group: The smallest legal group whose fit explains the distance.
        before: Distance to the base as the weights are, in units of the base's norm, on canonical stacks (additive
            shifts taken off).
        after: The same under the best gauge of `group`, or, where none is named, of the largest legal group: what no
            legal gauge explains, be it training, noise, or a change of the function.
        comes_off: Share of the distance that the fit takes away, where a lock was found.
        tied_before, tied_after: Both as squared distances, `‖left − left₀‖² + ‖right − right₀‖²`.
        shifts: Additive shifts found.
    """

    site: str
    kind: str
    part: str = ""
    layer: int
    state: State
    group: str | None = None
    before: float | None = None
    after: float | None = None
    comes_off: float | None = None
    tied_before: float | None = None
    tied_after: float | None = None
    shifts: tuple[ShiftFinding, ...] = ()


class TensorFinding(Model):
    """How one tensor stands to the base's.

    Attributes:
        name: Its name.
        state: `"equal"` bit for bit; `"rounded"`: the base's, rounded to this dtype; `"changed"`; `"added"`, not in the
            base; `"missing"`, in the base alone; `"reshaped"`.
        distance: ‖W − W₀‖ / ‖W₀‖ where it changed; None where that is no finite number.
    """

    name: str
    state: Literal["equal", "rounded", "changed", "added", "missing", "reshaped"]
    distance: float | None = None


class PairFinding(Model):
    """Whether two models share the gauge of a site.

    Attributes:
        site: Its label.
        kind: Its kind.
        part: Which of several of its kind in a layer, such as a norm of the MLP or a tower of a CLIP; empty if one.
        layer: Counted from 0.
        standing: `"shared"`; `"apart"`: both are locked, otherwise; `"one"` of them is locked; `"neither"` is;
            `"reshaped"`: they cannot be compared.
        distance: Between the two as they are, in units of their mean norm: about √2 under independent gauges.
        fitted: The same under the best legal gauge between them; where the gauge is shared, hardly any smaller.
    """

    site: str
    kind: str
    part: str = ""
    layer: int
    standing: Standing
    distance: float | None = None
    fitted: float | None = None


class Audit(Model):
    """What `redteam audit` found.

    Attributes:
        schema_: Raised when a field changes its meaning; `"schema"` in JSON.
        model, base, other: What was read, as it was named.
        architecture: The model type.
        summary: The findings in plain sentences.
        sites: Every site of the model.
        tensors: Every tensor of the model and the base.
        pairs: Every site of the model and the other one; empty without one.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    model: str
    base: str
    other: str | None = None
    architecture: str
    summary: tuple[str, ...]
    sites: tuple[SiteFinding, ...]
    tensors: tuple[TensorFinding, ...]
    pairs: tuple[PairFinding, ...] = ()

    def _repr_html_(self) -> str:
        return html(self)
