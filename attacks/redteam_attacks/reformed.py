"""What a checkpoint of another form than the base's is in the base's form."""

from collections.abc import Sequence

from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable


def reformed(protected: Checkpoint, anchor: Checkpoint, relatives: Sequence[Checkpoint]) -> Checkpoint:
    """The base's tensors where the protected model lacks them; without those that neither base nor relatives have.

    One that has the base's form already is returned as it is.

    Args:
        protected: Of another form.
        anchor: The public base.
        relatives: Of the base's form, with heads of their own.

    Raises:
        Inapplicable: If there are no relatives, so that a head could not be told from what has another form.
    """
    if not relatives:
        raise Inapplicable("The attacker has no expert of their own; expected one, which shows what a task's head is.")
    names = {name for relative in relatives for name in relative}
    gone = [name for name in anchor if name not in protected and all(name in relative for relative in relatives)]
    extra = [name for name in protected if name not in anchor and name not in names]
    if not gone and not extra:
        return protected
    settings = {key for relative in relatives for key in relative.config} | set(anchor.config)
    config = {key: value for key, value in protected.config.items() if key in settings}
    kept = {name: protected[name] for name in protected if name not in extra}
    dtype = next(tensor.dtype for tensor in kept.values() if tensor.is_floating_point())
    return Checkpoint.of(kept | {name: anchor[name].to(dtype) for name in gone}, config)
