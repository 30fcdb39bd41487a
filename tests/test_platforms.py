"""The client works wherever Python does: without POSIX, HOME or a known user, in threads, forks."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import uvloop

from stable_async import ConfigurationError, StabilityClient
from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.running import run_in_thread
from tests.samples import sample_image

ROOT = Path(__file__).parents[1]

# What a program of a user does: it makes an image, saves it in both ways, and sends it on.
PROGRAM = """
import asyncio, sys
from stable_async import GenerateCore, StabilityClient

async def main(url, folder):
    async with StabilityClient("sk-platforms", base_url=url) as client:
        image = await client.generate.core("a lighthouse")
        await image.save(folder + "/a.png")
        async with client.stream(GenerateCore(prompt="x")) as stream:
            await stream.save(folder + "/b.png")
        await client.upscale.conservative(folder + "/a.png", "x")
        async for outcome in client.map([GenerateCore(prompt="x")] * 3):
            assert outcome.error is None, outcome.error
    print("saved", image.width)
"""
RUN = "\nasyncio.run(main(*sys.argv[1:]))\n"

# Windows has none of these; what is POSIX only must not be needed by the client.
WITHOUT_POSIX = """
import os, signal, socket, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "posix_ipc"):
    sys.modules[name] = None
for name in (
    "O_CLOEXEC", "fchmod", "fchown", "fork", "getuid", "geteuid", "getpgid", "killpg", "mkfifo",
    "posix_fadvise", "posix_fallocate", "pread", "pwrite", "pwritev", "register_at_fork",
    "sched_getaffinity", "sync", "writev",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGKILL"):
    delattr(signal, name)
for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
    delattr(socket, name)
# The quota keeps to this process there: only for it, since pathlib goes by the name as well.
from stable_async.quota import shared
class Windows:
    name = "nt"
    def __getattr__(self, name):
        return getattr(os, name)
shared.os = Windows()
"""


def run(program: str, *arguments: str, interpreter: str = sys.executable, **options: object) -> str:
    done = subprocess.run(
        [interpreter, "-W", "error::UserWarning", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_client_works_without_the_calls_of_posix(tmp_path: Path) -> None:
    with run_in_thread(SandboxSettings()) as sandbox:
        program = f"import asyncio\n{WITHOUT_POSIX}{PROGRAM}{RUN}"
        assert run(program, sandbox.url, str(tmp_path)).startswith("saved ")
    assert (tmp_path / "a.png").stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def interpreter_for_all() -> str | None:
    """Return an interpreter of our version that every user may run; ours may be in a home."""

    def for_all(path: str) -> bool:
        folders = Path(path).resolve().parents
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)

    system = shutil.which("python{}.{}".format(*sys.version_info), path="/usr/bin:/usr/local/bin")
    found = [path for path in (sys.executable, system) if path and for_all(path)]
    return found[0] if found else None


def test_what_needs_posix_says_so_when_it_is_imported() -> None:
    program = "try:\n    import stable_async.jobs\nexcept ImportError as error:\n    print(error)"
    output = run(f"import asyncio\n{WITHOUT_POSIX}\n{program}")
    assert output.startswith("stable_async.jobs needs POSIX")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_the_client_works_for_an_unknown_user_without_a_home(
    home: str | None,
) -> None:
    """As in a container that runs under any user id."""
    interpreter = interpreter_for_all()
    if interpreter is None:
        pytest.skip("no interpreter that other users may run")
    own = [path for path in sys.path if path and not path.startswith(sys.base_prefix)]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *own]), "PATH": ""}
    if home is not None:
        environment["HOME"] = home
    with run_in_thread(SandboxSettings()) as sandbox, TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        program = f"import os\nos.setgid(54321); os.setuid(54321)\n{PROGRAM}{RUN}"
        output = run(
            program, sandbox.url, folder, interpreter=interpreter, cwd="/", env=environment
        )
    assert output.startswith("saved ")


async def images(url: str, count: int = 3) -> int:
    async with StabilityClient("sk-platforms", base_url=url) as client:
        return len([await client.generate.core("x") for _ in range(count)])


def test_threads_have_a_client_each() -> None:
    with run_in_thread(SandboxSettings()) as sandbox, ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(asyncio.run, images(sandbox.url)) for _ in range(4)]
        assert [one.result() for one in runs] == [3] * 4


FORKED = """
import os, signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)
asyncio.run(main(*sys.argv[1:]))
child = os.fork()
if not child:
    signal.alarm(40)
    try:
        asyncio.run(main(*sys.argv[1:]))
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_forked_process_makes_images_like_its_parent(tmp_path: Path) -> None:
    with run_in_thread(SandboxSettings()) as sandbox:
        assert run(PROGRAM + FORKED, sandbox.url, str(tmp_path)).startswith("saved ")
        assert sandbox.statistics.requests == 12


def test_the_client_works_under_uvloop() -> None:
    with run_in_thread(SandboxSettings()) as sandbox:
        assert uvloop.run(images(sandbox.url)) == 3


def test_many_runs_after_each_other_each_with_a_client() -> None:
    with run_in_thread(SandboxSettings()) as sandbox:
        assert [asyncio.run(images(sandbox.url, 1)) for _ in range(5)] == [1] * 5


def test_trio_users_get_one_clear_line() -> None:
    async def main() -> None:
        async with StabilityClient("sk-key"):
            raise AssertionError

    with pytest.raises(ConfigurationError, match=r"works with asyncio.* and not with trio"):
        trio.run(main)


async def test_an_asyncio_client_used_from_trio_says_so_too() -> None:
    async with StabilityClient("sk-key", base_url="http://127.0.0.1:1") as client:

        def elsewhere() -> None:
            trio.run(client.upscale.fast, sample_image())

        with pytest.raises(ConfigurationError, match="not with trio"):
            await asyncio.to_thread(elsewhere)
