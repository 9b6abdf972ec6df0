"""Where reports find the atomic writer."""

from redteam.files import write_atomically

__all__ = ["write_atomically"]
