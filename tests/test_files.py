"""Files are written whole, in whichever process."""

from __future__ import annotations

import subprocess
import sys

FORKED = """
import asyncio, os, signal
from stable_async.files import in_thread
asyncio.run(in_thread(int))
child = os.fork()
if not child:
    signal.alarm(10)
    os._exit(asyncio.run(in_thread(int, "7")))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    """As under servers that load the application before they fork their workers."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "7"
