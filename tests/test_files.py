"""Files are written whole, in whichever process."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stable_async.files import (
    MOST_PIECES,
    TEMPORARY_SUFFIX,
    AtomicFile,
    FileSink,
    in_thread,
    prove_writable,
    state_of,
    sync_folder,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


@pytest.mark.parametrize("name", ["picture.png", "\u753b" * 80 + ".png"])
def test_a_temporary_file_is_told_by_its_target(name: str, tmp_path: Path) -> None:
    """A job clears up after a crash by these names; long ones must not be too long for the disk."""
    file = AtomicFile(tmp_path / name)
    file.write([b"half"])
    [left] = tmp_path.iterdir()
    assert left.name.startswith(f".{name[:20]}")
    assert left.name.endswith(TEMPORARY_SUFFIX)
    file.commit([b" and half"])
    assert (tmp_path / name).read_bytes() == b"half and half"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_what_was_written_last_is_synced_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        steps.append(("sync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def noting_replace(source: str, target: str) -> None:
        steps.append(("rename", Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    for count in range(3):
        for last in ([], [b"end"]):
            steps.clear()
            file = AtomicFile(tmp_path / f"{count}")
            for _ in range(count):
                file.write([b"one"])
                file.sync()
            file.commit(last)
            size = 3 * count + 3 * len(last)
            assert steps[-2:] == [("sync", size), ("rename", size)]
            assert len(steps) == 1 + (count if count and not last else count + 1), "none twice"
            assert (tmp_path / f"{count}").stat().st_size == size


async def test_a_call_that_is_cancelled_ends_before_its_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller may close next what the call uses; how the call ends is of no interest then."""
    begun, go_on = threading.Event(), threading.Event()
    ended = []

    def work(error: Exception | None) -> None:
        begun.set()
        assert go_on.wait(10)
        ended.append(error)
        if error is not None:
            raise error

    for error in (None, ValueError("late")):
        begun.clear()
        go_on.clear()
        task = asyncio.ensure_future(in_thread(work, error))
        await in_thread(begun.wait, 10)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        await asyncio.sleep(0)
    assert [str(error) for error in ended] == ["None", "late"]
    assert caplog.records == []


async def test_a_call_in_a_thread_returns_or_raises() -> None:
    assert await in_thread(int, "11", base=2) == 3
    name = await in_thread(lambda: threading.current_thread().name)
    assert name.startswith("stable_async"), "asyncio resolves host names in its own"
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")


@pytest.fixture(params=["all", "few bytes", "no writev"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pieces each call of the system gets, whatever it takes of them."""
    calls: list[int] = []
    writev = os.writev

    def write_some(descriptor: int, pieces: Sequence[memoryview]) -> int:
        calls.append(len(pieces))
        if request.param == "all":
            return writev(descriptor, pieces)
        return os.write(descriptor, pieces[0][:2])

    if request.param == "no writev":
        monkeypatch.delattr(os, "writev")
    else:
        monkeypatch.setattr(os, "writev", write_some)
    return calls


@pytest.mark.parametrize("count", [0, 1, 3, MOST_PIECES, MOST_PIECES + 1])
def test_all_pieces_are_written_in_order(tmp_path: Path, written: list[int], count: int) -> None:
    pieces = [f"{number:05d}".encode() for number in range(count)]
    with_empty = [part for piece in pieces for part in (piece, b"")]
    file = AtomicFile(tmp_path / "x")
    file.write([b"first"])
    file.write([])
    file.write(iter(with_empty))
    file.commit([b"last"])
    assert (tmp_path / "x").read_bytes() == b"first" + b"".join(pieces) + b"last"
    assert max(written, default=0) <= MOST_PIECES


def test_a_file_without_bytes_is_a_file(tmp_path: Path) -> None:
    AtomicFile(tmp_path / "x").commit()
    assert (tmp_path / "x").read_bytes() == b""
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_is_closed_when_it_has_its_name(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "x")
    file.write([b"x"])
    descriptor = file._descriptor
    assert descriptor is not None
    file.commit()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_was_written_can_be_read_before_it_has_its_name(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "x")
    assert file.written(0) == b""
    file.write([b"abc", b"def"])
    assert (file.written(4), file.written(6)) == (b"abcd", b"abcdef")
    file.discard()


def test_the_disk_begins_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux writes a file out when it is told that nobody needs its pages any more."""
    advice = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *rest: advice.append(rest))
    file = AtomicFile(tmp_path / "x")
    file.write([b"abc"])
    file.begin_sync()
    assert advice == [(0, 0, os.POSIX_FADV_DONTNEED)]
    monkeypatch.delattr(os, "posix_fadvise")
    file.begin_sync()
    file.commit()


def test_a_file_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "x")
    file.discard()
    file.write([b"half"])
    descriptor = file._descriptor
    assert descriptor is not None
    file.discard()
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    file = AtomicFile(tmp_path / "x")
    file.commit([b"whole"])
    file.discard()
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_a_temporary_file_is_never_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stable_async.files.getrandbits", lambda _: 7)
    first, second = AtomicFile(tmp_path / "x", owner="o"), AtomicFile(tmp_path / "x", owner="o")
    first.write([b"first"])
    with pytest.raises(FileExistsError):
        second.write([b"second"])
    assert [entry.name for entry in tmp_path.iterdir()] == [".x.o-0000000000000007.part"]
    first.commit()


STEPS: dict[str, Callable[[AtomicFile], object]] = {
    "open": lambda file: file.write([b"x"]),
    "writev": lambda file: file.write([b"x"]),
    "fsync": lambda file: file.sync(),
    "replace": lambda file: file.commit(),
}


@pytest.mark.parametrize("step", STEPS)
def test_an_error_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Not the temporary file, which means nothing to the reader, nor no file at all."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "something else")

    file = AtomicFile(tmp_path / "x")
    if step != "open":
        file.write([b"x"])
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="Input/output") as caught:
            STEPS[step](file)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "x"))
    file.discard()
    assert [*tmp_path.iterdir()] == []


def test_what_was_not_written_whole_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert write_atomically(path, [b"o", b"ld"]) == path

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, chunks())
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


async def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    """The rename would put a file where a device was: /dev/null, for root."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="not a regular file"):
        write_atomically(pipe, [b"x"])
    sink = FileSink(pipe)
    with pytest.raises(FileExistsError, match="not a regular file"):
        await sink.commit([b"x"])
    await sink.discard()
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


async def test_a_sink_of_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "x")
    await sink.write([b"a"])
    await sink.discard()
    assert [*tmp_path.iterdir()] == []
    sink = FileSink(tmp_path / "x")
    await sink.write([b"a", b"b"])
    assert await sink.commit([b"c"]) == tmp_path / "x"
    assert (tmp_path / "x").read_bytes() == b"abc"
    await sink.discard()
    assert (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("folder", IsADirectoryError),
        ("pipe", FileExistsError),
        ("nowhere/x", FileNotFoundError),
        ("x", None),
        ("new", None),
    ],
)
def test_a_target_is_proved_without_a_trace(
    tmp_path: Path, name: str, error: type[OSError] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").write_text("old")
    before = sorted(tmp_path.iterdir())
    renamed: list[None] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: renamed.append(replace(*names)))
    if error is None:
        prove_writable(tmp_path / name)
        assert renamed == [None]
    else:
        with pytest.raises(error) as caught:
            prove_writable(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
        assert caught.value.errno == {
            "folder": errno.EISDIR, "pipe": errno.EEXIST, "nowhere/x": errno.ENOENT,
        }[name]  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_is_synced_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((descriptor, os.fstat(descriptor).st_ino))
        if fails:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    if fails:
        with pytest.raises(OSError, match="Input/output"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)
    [(descriptor, inode)] = synced
    assert inode == tmp_path.stat().st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_state_of_a_file_tells_whether_it_was_touched(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = state_of(path.stat())
    assert state_of(path.stat()) == first
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = state_of(path.stat())
    path.write_bytes(b"three")
    third = state_of(path.stat())
    write_atomically(tmp_path / "y", [b"three"])
    assert len({first, second, third, state_of((tmp_path / "y").stat())}) == 4
