"""Norms without gains: what makes a rotation of the residual stream legal where norms are RMSNorms."""

from __future__ import annotations

import torch

from redteam.anatomy import Affine, Architecture, Site, anatomy_of, architecture_of
from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable
from redteam.symmetry.fitting import moved
from redteam.symmetry.gauges import MonomialGauge


def fold_norms(checkpoint: Checkpoint) -> Checkpoint:
    """Every gain that projections alone read multiplied into them, so that it is 1; the function stays.

    A head that is tied to the embedding gets a tensor of its own first, since it alone reads the last norm. Gains that
    stand behind a projection (Gemma, OLMo 2) can't be folded. Lazy but for the head.

    Args:
        checkpoint: Of an architecture with norms before its blocks.

    Raises:
        BadInput: If the architecture is not known, or, when a tensor is read, a gain is zero.
        Inapplicable: If the architecture has no such norms.
    """
    checkpoint = untied(checkpoint)
    sites = anatomy_of(checkpoint).sites(("norm",))
    if not sites:
        raise Inapplicable("The architecture has no norm whose gain can be folded into what reads it.")

    def ones(site: Site) -> MonomialGauge:
        gain = site.left.linear.read(checkpoint).weight[:, 0]
        if bool((gain == 0).any()):
            raise Inapplicable(f"A gain at {site.label} is zero, so that it can't be folded.")
        return MonomialGauge.scaled((1 / gain)[None])

    folded = moved(checkpoint, sites, ones)
    exactly: dict[str, torch.Tensor] = {}
    for site in sites:  # γ · (1 / γ) is one up to rounding, and equal gains are what makes a rotation legal
        linear = site.left.linear
        gain = linear.read(checkpoint)
        exactly |= linear.write(folded, Affine(torch.ones_like(gain.weight), linear.read(folded).bias))
    return folded.replace(exactly)


def untied(checkpoint: Checkpoint) -> Checkpoint:
    """The head of a language model as a tensor of its own, where it is the embedding's; otherwise the same."""
    _, architecture = architecture_of(checkpoint)
    if not isinstance(architecture, Architecture) or architecture.readout is None or architecture.stream is None:
        return checkpoint
    head = architecture.readout + ".weight"
    embedding = architecture.stream.embeddings[0].format(prefix=architecture.prefix(checkpoint))
    if head in checkpoint or embedding not in checkpoint:
        return checkpoint
    own = checkpoint.replace({head: checkpoint[embedding]})
    return own.configured({"tie_word_embeddings": False})
