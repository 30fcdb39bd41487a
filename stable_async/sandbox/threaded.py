"""The sandbox in a separate thread with its own event loop, for synchronous programs."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from stable_async.sandbox.in_loop import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.sandbox.settings import SandboxSettings

__all__ = ["run_in_thread"]


@contextmanager
def run_in_thread(settings: SandboxSettings) -> Iterator[Sandbox]:
    """Run a sandbox for the length of the context.

    Raises:
        OSError: The port is taken.
    """
    started: Future[tuple[Sandbox, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        try:
            async with Sandbox(settings) as sandbox:
                started.set_result((sandbox, asyncio.get_running_loop(), stop))
                await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = Thread(target=asyncio.run, args=(run(),), name="stability-sandbox", daemon=True)
    thread.start()
    sandbox, loop, stop = started.result()
    try:
        yield sandbox
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
