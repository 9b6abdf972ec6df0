"""Vocabulary reading: tokens go back to the rows that the base's tokenizer gives them, by their strings."""

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.numbering import renumbered
from redteam.checkpoint.tensors import NUMBERS
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("vocabulary-read", needs=Needs.ANCHOR, targets=("vocabulary",), keeps_function=True, renumbers=True)
def vocabulary_read(view: AttackerView) -> Checkpoint:
    """E ← Πᵀ E, and the head with it. Π is what the tokenizers of the model and of the base say: exact, and free.

    A model whose tokenizer is the base's, or that comes without one, is returned as it is.

    Args:
        view: Grants the base, and with it its tokenizer.
    """
    numbers = view.protected.get(NUMBERS)
    return view.protected if numbers is None else renumbered(view.protected, numbers.flip(0))
