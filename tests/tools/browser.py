"""A real browser for tests of pages: chromium without a window."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SOFTWARE_GL = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
               "--enable-unsafe-swiftshader")  # fmt: skip
LONGEST_MS = 60_000
"""Milliseconds to wait for anything: a busy machine is not a fault of a page."""


@contextmanager
def opened_browser() -> Iterator[Any]:
    """A browser of playwright; the test is skipped where either is not installed."""
    if not BROWSER:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=BROWSER, args=SOFTWARE_GL, timeout=LONGEST_MS
        )
        yield browser
        browser.close()
