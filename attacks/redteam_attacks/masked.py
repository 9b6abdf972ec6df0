"""Which coordinates a release has put back to the base: they equal it bit by bit, which training hardly ever does."""

from torch import Tensor


def kept_mask(ours: Tensor, base: Tensor) -> Tensor:
    """Whether a coordinate differs from the base's, in the base's own dtype; bool, of the tensor's shape."""
    return ours != base.to(ours.dtype)
