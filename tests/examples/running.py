"""The examples as their users run them: in processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KEY", "example"]

KEY = "sk-example-0123456789"


@contextmanager
def example(
    name: str, sandbox_url: str, *, workers: int = 1, quota_path: str = ""
) -> Iterator[str]:
    """Run an example against a sandbox, and yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    uvicorn = ["-m", "uvicorn", "examples.fastapi_app:app", "--log-level", "warning"]
    command = {
        "cluster": ["-m", "examples.web_cluster", port],
        "fastapi": [*uvicorn, "--port", port, "--workers", str(workers)],
        "aiohttp": ["-m", "examples.aiohttp_app", port],
    }[name]
    environment = {
        **os.environ,
        "STABILITY_API_KEY": KEY,
        "STABILITY_BASE_URL": sandbox_url,
        "STABILITY_SHARED_QUOTA": quota_path,
    }
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_it_answers(url, process)
            yield url
        finally:
            process.terminate()


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"the example ended with exit status {process.returncode}")
