"""What a plugin gets to see. Views prevent mistakes, not malice: plugins are trusted code.

Scoring data never reach a plugin. Asking for more than the threat model grants raises `ThreatModelViolation`.
"""

from redteam.views.attacker import AttackerView
from redteam.views.defender import DefenderView, unlocked
from redteam.views.given import Meter, Oracle, granted
from redteam.views.merger import MergerView

__all__ = ["AttackerView", "DefenderView", "MergerView", "Meter", "Oracle", "granted", "unlocked"]
