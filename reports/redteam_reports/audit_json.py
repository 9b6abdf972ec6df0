"""JSON: an audit as scripts read it, with every site and tensor."""

from pathlib import Path

from redteam.audit import Audit
from redteam.files import write_atomically


def write(audit: Audit, path: Path) -> None:
    """Writes the audit, whole or not at all.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    write_atomically(path, audit.model_dump_json(indent=1, by_alias=True) + "\n")
