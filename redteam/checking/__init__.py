"""Whether a scenario is fit for a verdict, said before anything heavy runs."""

from redteam.checking.fitness import looked_at

__all__ = ["looked_at"]
