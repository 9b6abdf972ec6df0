"""Where the heads, neurons and norms of a network are in its checkpoint, and which groups are legal there."""

from redteam.anatomy.architecture import KINDS, Anatomy, Architecture, Sites
from redteam.anatomy.known import ARCHITECTURES, anatomy_of
from redteam.anatomy.legality import GROUPS, Layout, containing, listed, smallest, within
from redteam.anatomy.linear import Affine, Linear, Norm
from redteam.anatomy.site import GaugeLike, Side, Site, Stacks

__all__ = [
    "ARCHITECTURES",
    "GROUPS",
    "KINDS",
    "Affine",
    "Anatomy",
    "Architecture",
    "GaugeLike",
    "Layout",
    "Linear",
    "Norm",
    "Side",
    "Site",
    "Sites",
    "Stacks",
    "anatomy_of",
    "containing",
    "listed",
    "smallest",
    "within",
]
