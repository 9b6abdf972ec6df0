"""Where reports find the atomic writer."""

from redteam.evaluation.runner.store import write_atomically

__all__ = ["write_atomically"]
