"""The browser that pages are looked at in."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("REDTEAM_REQUIRE_BROWSER") != "1",
    reason="no chromium; REDTEAM_REQUIRE_BROWSER=1 forbids this skip",
)
