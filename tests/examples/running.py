"""The examples as their users run them: in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from examples.web_cluster import bound_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KEY", "example"]

KEY = "sk-example-0123456789"


@contextmanager
def example(
    name: str, sandbox_url: str, *, workers: int = 1, quota_path: str = ""
) -> Iterator[str]:
    """Run an example against a sandbox, and yield its URL."""
    # Port 0 and a socket that is bound here: nobody can take a port before the example listens.
    uvicorn = ["-m", "uvicorn", "examples.fastapi_app:app", "--log-level", "warning"]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "STABILITY_API_KEY": KEY,
        "STABILITY_BASE_URL": sandbox_url,
        "STABILITY_SHARED_QUOTA": quota_path,
    }
    with bound_socket() as bound:
        descriptor = bound.fileno()
        command = {
            "cluster": ["-m", "examples.web_cluster", "0"],
            "fastapi": [*uvicorn, "--fd", str(descriptor), "--workers", str(workers)],
            "aiohttp": ["-m", "examples.aiohttp_app", "0"],
        }[name]
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[descriptor],
        )
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    with process:
        try:
            if name != "fastapi":
                url = printed_url(process)
            wait_until_it_answers(url, process)
            yield url
        finally:
            process.terminate()


def printed_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise RuntimeError(f"the example ended with exit status {process.wait()}")


def wait_until_it_answers(url: str, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"the example ended with exit status {process.returncode}")
