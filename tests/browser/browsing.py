"""Debian's Chromium, driven by its own driver."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from shutil import which
from typing import TYPE_CHECKING

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser(width: int, height: int, *, dark: bool = False) -> Iterator[WebDriver]:
    """Open a browser with a window of that size, CSS pixels."""
    chromium, driver = which("chromium"), which("chromedriver")
    if not chromium or not driver:
        pytest.fail("these tests need Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        one = webdriver.Chrome(options=options, service=Service(driver))
        try:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            one.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            one.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            yield one
        finally:
            one.quit()
