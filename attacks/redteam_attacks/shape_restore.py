"""Shape restoring: surplus neurons folded, padded heads and a wide stream cut, until every shape fits the base's."""

from typing import Annotated

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView
from redteam_attacks.folding import fold_neurons, narrow_heads
from redteam_attacks.narrowing import narrow_stream


@attack(
    "shape-restore",
    needs=Needs.ANCHOR,
    targets=("split-neurons", "padded-heads", "wide-stream"),
    keeps_function=True,
    changes_architecture=True,
)
def shape_restore(view: AttackerView, *, tolerance: Annotated[float, Range(1e-9, 0.1, log=True)] = 0.01) -> Checkpoint:
    """Adds up what neurons write that read the same, drops groups that cancel, factors heads' products at their rank.

    Neurons read the same up to the scales that they have; those with one gate in common are as many as their rank, and
    those that read a and −a are one where what they leave over adds up to nothing (`redteam_attacks.redundancy`).
    A residual stream is cut to the rank of what lies in it, turned to the base's embeddings and head, and given the
    base's gains. The function stays. Neurons and heads come out in no particular basis, so that a fit should follow, as
    in `shape-restore+gauge-fit`. A model that has the base's shapes is returned as it is.

    Args:
        view: Grants the base, which says what the shapes were.
        tolerance: What counts as the same, and as nothing, relative to what there is; 0.01 allows for bfloat16.

    Raises:
        BadInput: If surplus neurons do something, heads are of full rank, or something is narrower than in the base.
        Inapplicable: If MLPs or heads are of another form than the base's, so that it is not their width that changed.
    """
    restored = view.protected
    gone = {site.kind for site in anatomy_of(view.anchor).inner} - {site.kind for site in anatomy_of(restored).inner}
    if gone & {"mlp", "qk"}:
        raise Inapplicable(
            "The protected model has MLPs or heads of another form than the base's; expected more neurons or wider "
            "heads, so exchange them first, as mlp-substitution does."
        )
    for kind, restore, what in (("mlp", fold_neurons, "neurons"), ("qk", narrow_heads, "dimensions per head")):
        if not anatomy_of(view.anchor).sites((kind,)):
            continue
        now, before = (anatomy_of(checkpoint).sites((kind,))[0].width for checkpoint in (restored, view.anchor))
        if now < before:
            raise BadInput(
                f"The protected model has {now} {what} and the base {before}; expected no fewer, so check that they "
                "belong together."
            )
        if now > before:
            restored = restore(restored, before, tolerance=tolerance)
    if _stream(restored) > _stream(view.anchor) > 0:
        restored = narrow_stream(restored, view.anchor, tolerance=tolerance)
    return restored


def _stream(checkpoint: Checkpoint) -> int:
    """The width of the residual stream; 0 where that is not described, or there are several."""
    streams = [site.width for site in anatomy_of(checkpoint).sites(("residual",)) if site.spanning]
    return streams[0] if len(streams) == 1 else 0
