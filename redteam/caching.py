"""The user's cache: what scenarios train and prepare, in folders `ROOT/SCENARIO/ENTRY`."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`$REDTEAM_CACHE`, or the platform's folder for caches."""
    if chosen := os.environ.get("REDTEAM_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("redteam"))


def held(folder: Path) -> int:
    """Bytes of all files in a folder; links are not followed, and what cannot be read counts as nothing."""
    total = 0
    for home, _, files in os.walk(folder, onerror=None):
        for name in files:
            try:
                total += os.lstat(os.path.join(home, name)).st_size  # noqa: PTH118
            except OSError:
                continue
    return total
