"""The sandbox as a process, as a command, in a thread, and as a pytest fixture."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stable_async.sandbox as package
from stable_async.sandbox import Sandbox, SandboxOptions, SandboxSettings
from stable_async.sandbox.process import start_sandbox
from stable_async.sandbox.pytest_plugin import stability_sandbox, stability_sandbox_settings
from stable_async.sandbox.running import run_in_thread
from tests.sandbox.support import BOUNDARY, OPERATIONS, multipart

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["stability_sandbox", "stability_sandbox_settings"]

HERE = Path(package.__file__).parent
COMMAND = [sys.executable, "-m", "stable_async.sandbox"]


def ask_core(url: str, key: str = "sk-x") -> tuple[int, Mapping[str, str]]:
    """Ask for an image the way a synchronous program does."""
    request = urllib.request.Request(
        url + OPERATIONS["generate_core"].path,
        multipart({"prompt": "x", "output_format": "jpeg"}),
        {
            "authorization": key,
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
        },
    )
    with urllib.request.urlopen(request) as reply:
        return reply.status, reply.headers


def test_a_process_serves_tells_and_ends() -> None:
    settings = SandboxSettings(counting="log", requests=5, api_keys=frozenset({"sk-x"}))
    with start_sandbox(settings) as process:
        assert ask_core(process.url)[0] == 200
        process.set_faults(fail_next={"status": 503})
        with pytest.raises(urllib.error.HTTPError, match="503"):
            ask_core(process.url)
        state = process.state()
        assert isinstance(state["statistics"], dict)
        assert state["statistics"]["answered"] == {"200": 1, "503": 1}
        with pytest.raises(ValueError, match="fail_next"):
            process.set_faults(no_such_switch={})
        pid = process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_process_can_be_entered_in_an_event_loop() -> None:
    async with start_sandbox() as process:
        assert (await asyncio.to_thread(ask_core, process.url))[0] == 200


def test_a_process_ends_with_the_one_that_started_it() -> None:
    program = (
        "import os, sys\n"
        "from stable_async.sandbox.process import start_sandbox\n"
        "process = start_sandbox().__enter__()\n"
        "print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    pid = int(done.stdout)
    # Its end closes the pipe to the sandbox, which may take it a moment to see.
    process_folder = Path(f"/proc/{pid}")
    for _ in range(200):
        if not process_folder.exists() or "(zombie)" in (process_folder / "status").read_text():
            return
        signal.sigtimedwait([], 0.02)
    pytest.fail("the sandbox outlived its owner")


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with start_sandbox() as process:
        port = process.url.rpartition(":")[2]
        done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_url_and_ends_on_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen([*COMMAND, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url + "/_sandbox/state") as reply:
            assert json.load(reply)["settings"]["latency"] == "observed"
        process.send_signal(number)
        assert process.wait(10) == 0


def test_a_wrong_option_is_a_clear_error() -> None:
    done = subprocess.run([*COMMAND, "--host", "0.0.0.0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "token is not set" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"host": "localhost"},
        {"token": ""},
        {"cors": ("http://localhost:3000/",)},
        {"allowed_hosts": ("a b",)},
        {"edge_rates": {"firewall": 1.5}},
        {"balance_lag": -1.0},
        {"port": 65536},
        {"counting": "sometimes"},
        {"requests": 0},
        {"window": 0.0},
        {"penalty": float("nan")},
        {"latency": -1.0},
        {"fail_rate": 1.1},
        {"drop_rate": -0.1},
        {"credits": float("inf")},
    ],
    ids=lambda options: next(iter(options)),
)
def test_settings_that_cannot_be_are_refused_by_name(options: SandboxOptions) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SandboxSettings(**options)


def test_keys_do_not_show_in_the_settings() -> None:
    assert "sk-one" not in repr(SandboxSettings(api_keys=frozenset({"sk-one"})))


def test_a_thread_tells_why_it_could_not_start(stability_sandbox: Sandbox) -> None:
    port = int(stability_sandbox.url.rpartition(":")[2])
    with pytest.raises(OSError), run_in_thread(SandboxSettings(port=port)):  # noqa: PT011
        pass


def test_a_thread_without_an_event_loop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with too many open files, or where a plugin for pytest blocks sockets."""

    def no_more() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(asyncio.events, "new_event_loop", no_more)
    with pytest.raises(OSError, match="too many"), run_in_thread(SandboxSettings()):
        pass


def test_the_fixture_serves_synchronous_tests(stability_sandbox: Sandbox) -> None:
    assert os.environ["STABILITY_BASE_URL"] == stability_sandbox.url
    assert ask_core(stability_sandbox.url, os.environ["STABILITY_API_KEY"])[0] == 200
    assert stability_sandbox.log[-1].fields["prompt"] == "x"
    stability_sandbox.fail_next(500)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        ask_core(stability_sandbox.url)


async def test_the_fixture_serves_asynchronous_tests(stability_sandbox: Sandbox) -> None:
    assert (await asyncio.to_thread(ask_core, stability_sandbox.url))[0] == 200
    assert stability_sandbox.statistics.requests == 1


async def test_a_sandbox_that_was_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = Sandbox().url
    with pytest.raises(TypeError, match="not both"):
        Sandbox(SandboxSettings(), requests=1)


def test_keyword_options_are_the_settings() -> None:
    assert list(SandboxOptions.__annotations__) == [field.name for field in fields(SandboxSettings)]


def modules() -> list[Path]:
    return sorted(HERE.glob("*.py"))


def test_importing_the_package_and_the_plugin_loads_nothing_heavy() -> None:
    program = (
        "import sys, types\n"
        # The root package imports the client; what counts here is what the sandbox adds to it.
        "root = types.ModuleType('stable_async')\n"
        f"root.__path__ = [{str(HERE.parent)!r}]\n"
        "sys.modules['stable_async'] = root\n"
        "import stable_async.sandbox, stable_async.sandbox.process\n"
        "heavy = {'PIL', 'aiohttp', 'yaml', 'python_multipart'}\n"
        "print(heavy & set(sys.modules))\n"
        "import stable_async.sandbox.pytest_plugin\n"
        "print(heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\nset()\n", done.stderr


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_public_names_exist(path: Path) -> None:
    if path.stem == "__main__":
        return
    name = package.__name__ if path.stem == "__init__" else f"{package.__name__}.{path.stem}"
    module = importlib.import_module(name)
    assert module.__all__ == sorted(module.__all__, key=str)
    assert all(hasattr(module, public) for public in module.__all__)
