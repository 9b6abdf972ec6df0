"""Why a merge will fail: what lies between a base and models that are to be merged on it. Needs no data."""

from redteam.doctor.examine import examine
from redteam.doctor.findings import Diagnosis, Examined, Finding

__all__ = ["Diagnosis", "Examined", "Finding", "examine"]
