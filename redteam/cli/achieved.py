"""What a command did to a checkpoint, counted while the result is written."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from redteam.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from redteam.checkpoint import Checkpoint


class Achieved:
    """Compares each tensor with what it was, as it is read for writing, and with the base's where there is one.

    Args:
        made: What is written.
        before: What it was made from.
        base: The public base.

    Attributes:
        checkpoint: `made`, to be written in its place.
        rewritten: How many floating tensors differ from what they were, or are new.
        total: How many there are.
    """

    def __init__(self, made: Checkpoint, before: Checkpoint, base: Checkpoint | None = None) -> None:
        from redteam.checkpoint import Checkpoint

        self.checkpoint = Checkpoint.computed(made.outline(), self._read, made.config)
        self.rewritten = self.total = 0
        self._made, self._before, self._base = made, before, base
        self._untouched: defaultdict[str, int] = defaultdict(int)
        self._touched: set[str] = set()
        self._reshaped = False
        self._squares = [0.0, 0.0, 0.0]  # of the base, of the distance before and of the distance after

    @property
    def distances(self) -> tuple[float, float] | None:
        """‖before − base‖ and ‖after − base‖ over ‖base‖, over the tensors of one shape; None without a base.

        None, too, where shapes changed, which no distance tells.
        """
        whole, before, after = self._squares
        return (math.sqrt(before / whole), math.sqrt(after / whole)) if whole and not self._reshaped else None

    @property
    def left(self) -> dict[str, int]:
        """Parts of the network of which nothing was rewritten → how many tensors they have."""
        return {part: count for part, count in self._untouched.items() if part not in self._touched}

    def rows(self) -> dict[str, str]:
        """For the model card."""
        found = {"rewritten": f"{self.rewritten} of {self.total} tensors"}
        if self.left and self._touched:
            found["left as it was"] = ", ".join(f"{part} ({count} tensors)" for part, count in self.left.items())
        return found

    def sentences(self) -> list[str]:
        """For whoever ran the command."""
        told = [f"{self.rewritten} of {self.total} tensors were rewritten."]
        if self.left and self._touched:
            told.append(f"Nothing was rewritten in {', '.join(self.left)}.")
        if self.distances is not None:
            before, after = self.distances
            told.append(f"Distance to the base, in units of its norm: {before:.3g} before, {after:.3g} after.")
        return told

    def require_rewritten(self, what: str) -> None:
        """Raises BadInput where no tensor was."""
        if not self.rewritten:
            raise BadInput(f"{what} changes no tensor of this checkpoint; nothing was written.")

    def require_nearer(self, what: str) -> None:
        """Raises BadInput where the result is no nearer to the base than what it was made from."""
        if self.distances is not None and not self.distances[1] < self.distances[0]:
            before, after = self.distances
            raise BadInput(
                f"{what} comes no nearer to the base ({before:.3g} of its norm before, {after:.3g} after): there is "
                "nothing that it could take off, or MODEL, --base, --key or --defense is not the right one; nothing "
                "was written."
            )

    def _read(self, name: str) -> Tensor:
        import torch

        from redteam.symmetry.shelved import squared_distance

        tensor = self._made[name]
        if not tensor.is_floating_point():
            return tensor
        self.total += 1
        part = name.partition(".")[0]
        alike = name in self._before and self._before.shape(name) == tuple(tensor.shape)
        self._reshaped |= not alike
        old = self._before[name] if alike else None
        same = old is not None and torch.equal(old.to(tensor.dtype), tensor)
        if same:
            self._untouched[part] += 1
        else:
            self.rewritten += 1
            self._touched.add(part)
        if self._base is not None and old is not None and name in self._base and self._base.shape(name) == old.shape:
            origin = self._base[name]
            before = squared_distance(old, origin)
            found = (squared_distance(origin), before, before if same else squared_distance(tensor, origin))
            self._squares = [so_far + new for so_far, new in zip(self._squares, found, strict=True)]
        return tensor
