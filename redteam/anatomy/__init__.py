"""Where the heads, neurons and norms of a network are in its checkpoint, and which groups are legal there."""

from redteam.anatomy.adapted import Adapted, AnyLinear
from redteam.anatomy.architecture import KINDS, KINDS_OF_SITES, ORDER, Anatomy, Architecture, Sites, Stream
from redteam.anatomy.auto import anatomy_of, architecture_of
from redteam.anatomy.catalog import ARCHITECTURES
from redteam.anatomy.legality import GROUPS, Layout, largest_group, listed, smallest, subgroups, supergroups
from redteam.anatomy.linear import Affine, Draft, Gathered, Linear, Norm, Packed, Rows
from redteam.anatomy.network import Network, find_sites
from redteam.anatomy.site import Piece, Side, Site
from redteam.anatomy.stacks import GaugeLike, Stacks

__all__ = [
    "ARCHITECTURES",
    "GROUPS",
    "KINDS",
    "KINDS_OF_SITES",
    "ORDER",
    "Adapted",
    "Affine",
    "Anatomy",
    "AnyLinear",
    "Architecture",
    "Draft",
    "Gathered",
    "GaugeLike",
    "Layout",
    "Linear",
    "Network",
    "Norm",
    "Packed",
    "Piece",
    "Rows",
    "Side",
    "Site",
    "Sites",
    "Stacks",
    "Stream",
    "anatomy_of",
    "architecture_of",
    "find_sites",
    "largest_group",
    "listed",
    "smallest",
    "subgroups",
    "supergroups",
]
