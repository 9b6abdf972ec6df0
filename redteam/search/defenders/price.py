"""What an owner pays for a protection, beside the skill that it costs: once for training, and with every answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from redteam.evaluation.steps import Cost, Locked

LEAST = 1 / 64
"""A price under which nothing is told apart: a hundredth of the fine-tuning, or of a forward pass."""


class OwnersPrice(BaseModel):
    """A protection's price, each part over that of the unprotected victim.

    Attributes:
        seconds: CPU seconds of putting it on, over those of the fine-tuning.
        steps: Optimizer steps of putting it on.
        fine_tuning: Those of the fine-tuning.
        parameters: Of the protected model, over the victim's.
        latency: CPU time of a forward pass, over the victim's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = 0.0
    steps: int = 0
    fine_tuning: int = 0
    parameters: float = 1.0
    latency: float = 1.0

    @classmethod
    def of(cls, locks: list[Locked], anew: Cost) -> OwnersPrice:
        """The price of a lock.

        Args:
            locks: The lock, the last one, and what the victim was prepared by for it.
            anew: What fine-tuning such a victim costs.
        """
        costs = [lock.cost for lock in locks if lock.cost is not None]
        return cls(
            seconds=sum(cost.seconds for cost in costs) / anew.seconds,
            steps=sum(cost.steps for cost in costs),
            fine_tuning=anew.steps,
            parameters=locks[-1].weights,
            latency=locks[-1].inference,
        )

    @property
    def total(self) -> float:
        """One number: what is paid beyond the unprotected victim, its parts simply added; 0 for none.

        Nothing says what a second of training is worth in seconds of answering, so that each part is counted in what it
        was before: as much training again, as many parameters again and as much time for each answer again cost 1 each.
        Steps are left out, since their time is in the seconds.
        """
        return self.seconds + max(0.0, self.parameters - 1) + max(0.0, self.latency - 1)

    def __str__(self) -> str:
        parts = [f"{self.seconds:.2g}× the fine-tuning's time"]
        if self.steps:
            parts.append(f"{self.steps} steps beside its {self.fine_tuning}")
        if self.parameters != 1:
            parts.append(f"{self.parameters:.2f}× the parameters")
        if self.latency != 1:
            parts.append(f"{self.latency:.2f}× the time of an answer")
        return ", ".join(parts)
