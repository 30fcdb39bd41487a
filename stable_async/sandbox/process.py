"""The sandbox in a separate process, so that it takes no CPU time from the program it serves."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, cast

from stable_async.sandbox.settings import SandboxSettings

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SandboxProcess", "start_sandbox"]

STOP_SECONDS = 5.0
ASK_SECONDS = 10.0


class SandboxProcess:
    """A sandbox in a separate process: a context manager, also an async one.

    It ends when the context does, and also when this process ends without leaving the context.

    Attributes:
        settings: Settings of the sandbox.
        url: The base URL while it runs.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        """Prepare; entering the context starts it."""
        self.settings = settings
        self.url: str = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the process and wait until it listens.

        Raises:
            RuntimeError: It exited instead; its output is on this process's stderr.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "stable_async.sandbox", "--attached"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal is meant for the program that uses the sandbox, not for the
            # sandbox.
            start_new_session=True,
        )
        self._process = process
        # Both are pipes, as asked for.
        stdin, stdout = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
        try:
            # The settings are passed by stdin, so that no key shows in the process list; the
            # sandbox ends when its stdin closes.
            stdin.write(json.dumps(_plain(self.settings)) + "\n")
            stdin.flush()
            self.url = stdout.readline().strip()
        except BrokenPipeError:
            self.url = ""
        except BaseException:
            self._stop()
            raise
        if not self.url:
            self._stop()
            raise RuntimeError(f"the sandbox did not start (exit status {process.returncode})")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    async def __aenter__(self) -> Self:
        """Start the process and wait until it listens, without blocking the loop."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc_info: object) -> None:
        """End the process, without blocking the loop."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @property
    def pid(self) -> int:
        """The id of the process."""
        if self._process is None:
            raise RuntimeError("the sandbox is not running")
        return self._process.pid

    def state(self) -> dict[str, object]:
        """Return what `GET /_sandbox/state` returns: statistics, quota and the last requests.

        It blocks briefly; in an event loop use `await asyncio.to_thread(sandbox.state)`.
        """
        return self._ask("/_sandbox/state", None)

    def set_faults(self, **switches: object) -> None:
        """Set faults: `set_faults(fail_next={"status": 500, "times": 2})`; see `Sandbox`."""
        self._ask("/_sandbox/faults", json.dumps(switches).encode())

    def bill(self) -> dict[str, object]:
        """Return what was charged: `{"credits": ..., "callers": [{"key": ..., ...}]}`."""
        return self._ask("/_sandbox/bill", None)

    def advance(self, seconds: float) -> None:
        """Move the sandbox's clock forward."""
        self._ask("/_sandbox/clock", json.dumps({"advance": {"seconds": seconds}}).encode())

    def reset(self) -> None:
        """Start over: no faults, log, bill, results or counted requests."""
        self._ask("/_sandbox/reset", b'{"reset": {}}')

    def _ask(self, path: str, body: bytes | None) -> dict[str, object]:
        connection = http.client.HTTPConnection(
            self.url.removeprefix("http://"), timeout=ASK_SECONDS
        )
        with contextlib.closing(connection):
            method = "GET" if body is None else "POST"
            headers = {"content-type": "application/json"}
            if self.settings.token:
                headers["x-sandbox-token"] = self.settings.token
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise ValueError(text.decode())
            return cast("dict[str, object]", json.loads(text))


def start_sandbox(settings: SandboxSettings | None = None) -> SandboxProcess:
    """Return a sandbox process, to be entered with `with` or `async with`."""
    return SandboxProcess(settings or SandboxSettings())


def _plain(settings: SandboxSettings) -> dict[str, object]:
    plain = asdict(settings)
    if settings.api_keys is not None:
        plain["api_keys"] = sorted(settings.api_keys)
    return plain
