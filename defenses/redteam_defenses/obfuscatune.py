"""ObfuscaTune: every weight matrix turned on one side by a secret rotation of its inputs."""

from typing import Literal

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.symmetry.sampling import rotations
from redteam.views import DefenderView
from redteam_defenses.sealing import Matrix, Rotated, sealed


@defense(
    "obfuscatune",
    exact=True,
    keyed=True,
    sealed=True,
    weakened={"per": "network"},
    paper="arXiv:2407.02960",
)
def obfuscatune(view: DefenderView, *, per: Literal["tensor", "network"] = "tensor") -> Checkpoint:
    """W ← W Q with a rotation Q of the inputs, reflections included.

    Args:
        view: The victim and its key.
        per: Whether each tensor has a rotation of its own, or all with as many inputs have one.
    """

    def veils(matrix: Matrix) -> list[Rotated]:
        where = matrix.label if per == "tensor" else "network"
        return [Rotated(rotations(1, matrix.columns, view.generator(f"{where}, width {matrix.columns}"))[0])]

    return sealed(view, veils)
