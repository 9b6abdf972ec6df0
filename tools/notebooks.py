"""Runs the notebooks in docs/notebooks and keeps what they show.

python tools/notebooks.py
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def main() -> None:
    """Writes every notebook with its outputs, and says which."""
    import nbformat

    for path in sorted(HOME.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        sys.stdout.write(f"docs/notebooks/{path.name}\n")


def executed(path: Path) -> Any:
    """A notebook with the outputs of a kernel that was started for it.

    Raises:
        CellExecutionError: Of nbclient, with the cell and its traceback, if one fails.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(book, timeout=300, kernel_name="python3", record_timing=False)
    asyncio.run(client.async_execute())
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [_kept(output) for output in cell.outputs if output.get("name") != "stderr"]
    return book


def _kept(output: Any) -> Any:
    """An output in the one form that is shown."""
    if "data" in output:
        form = next(form for form in ("text/html", "image/png", "text/plain") if form in output.data)
        output.data = {form: output.data[form]}
    return output


if __name__ == "__main__":
    main()
