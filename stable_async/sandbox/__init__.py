"""The Stability AI API on your own machine, to develop and test applications against.

    async with Sandbox(latency=0.2) as sandbox:
        ...  # point the application at sandbox.url
        assert sandbox.log[-1].fields["prompt"] == "a lighthouse"

It needs the extra `[sandbox]`, which is loaded only when a sandbox starts. It shares no code with
the client of this package, so that each can reveal mistakes of the other. docs/sandbox.md says what
it imitates and what it does not.
"""

from stable_async.sandbox.process import SandboxProcess, start_sandbox
from stable_async.sandbox.running import Sandbox, run_in_thread, serve_until_signal
from stable_async.sandbox.settings import SandboxOptions, SandboxSettings

__all__ = [
    "Sandbox",
    "SandboxOptions",
    "SandboxProcess",
    "SandboxSettings",
    "run_in_thread",
    "serve_until_signal",
    "start_sandbox",
]
