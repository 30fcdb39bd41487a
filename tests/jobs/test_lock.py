"""The lock of a folder: one process holds it, whatever lies there, and however it ends."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import JobError, JobLockedError
from stable_async.jobs.lock import NAME_LENGTH, is_locked, locked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = f"process {os.getpid()} on {socket.gethostname()}"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_lock_names_its_holder_while_it_is_held(tmp_path: Path) -> None:
    before = open_files()
    assert is_locked(tmp_path) is False, "there is none"
    for _ in range(2):
        with locked(tmp_path) as lock:
            assert lock.path == tmp_path / ".lock"
            assert is_locked(tmp_path) is True
            assert lock.path.read_text() == NAME.ljust(NAME_LENGTH - 1) + "\n"
            with (
                pytest.raises(JobLockedError, match=f"another run works on this job: {NAME}$"),
                locked(tmp_path),
            ):
                pass
            with pytest.raises(JobLockedError, match="another run copies: "):
                locked(tmp_path, "copies").__enter__()
            lock.check()
        assert is_locked(tmp_path) is False
        assert lock.path.read_text() == " " * (NAME_LENGTH - 1) + "\n"
        assert lock.path.stat().st_mode & 0o777 == 0o644
    assert open_files() == before


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert (tmp_path / ".lock").read_text().strip() == ""
    with locked(tmp_path):
        pass
    assert open_files() == before


def test_a_holder_without_a_name_is_named_so(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        lock.path.write_bytes(b" \n")
        with pytest.raises(JobLockedError, match="unnamed"):
            locked(tmp_path).__enter__()
        lock.path.write_bytes(b"process \xff")
        with pytest.raises(JobLockedError, match="process \ufffd"):
            locked(tmp_path).__enter__()
        lock.path.write_bytes(b"other")
        with pytest.raises(JobError, match="not the lock of a job") as caught:
            locked(tmp_path).__enter__()
        assert type(caught.value) is JobError


def remove(lock: Path) -> None:
    lock.unlink()


def replace(lock: Path) -> None:
    lock.rename(lock.with_name("old"))
    lock.write_bytes(b"")


def link(lock: Path) -> None:
    lock.rename(lock.with_name("old"))
    lock.symlink_to("old")


@pytest.mark.parametrize("change", [remove, replace, link])
def test_a_lock_that_is_not_there_any_more_keeps_nobody_out(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    with locked(tmp_path) as lock:
        lock.check()
        change(lock.path)
        with pytest.raises(JobError, match="was removed while this run held it"):
            lock.check()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def second_name(path: Path) -> None:
    path.with_name("x").write_bytes(b"")
    os.link(path.with_name("x"), path)


@pytest.mark.parametrize("put", [
    pipe, second_name, lambda path: path.write_text("precious"),
    lambda path: path.write_text("  process 1"),
])  # fmt: skip
def test_a_file_of_something_else_is_no_lock(tmp_path: Path, put: Callable[[Path], object]) -> None:
    before = open_files()
    path = tmp_path / ".lock"
    put(path)
    content = path.read_bytes() if path.is_file() else None
    with pytest.raises(JobError, match="is not the lock of a job; remove it"):
        locked(tmp_path).__enter__()
    assert content is None or path.read_bytes() == content
    assert is_locked(tmp_path) is False
    assert open_files() == before


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to("precious")
    with pytest.raises(JobError, match="is a symbolic link; remove it"):
        locked(tmp_path).__enter__()
    assert (tmp_path / "precious").read_text() == "precious"
    other = tmp_path / "other"
    other.mkdir()
    with locked(other) as lock:
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").symlink_to(lock.path)
        assert is_locked(tmp_path) is False


def test_a_child_does_not_inherit_a_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        [descriptor] = [
            int(name)
            for name in os.listdir("/proc/self/fd")  # noqa: PTH208
            if os.path.realpath(f"/proc/self/fd/{name}").endswith("/.lock")
        ]
        assert not os.get_inheritable(descriptor)


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        locked(tmp_path / "nowhere").__enter__()
    assert is_locked(tmp_path / "nowhere") is False


def test_a_host_of_any_name_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 300)
    with locked(tmp_path) as lock:
        assert lock.path.stat().st_size == NAME_LENGTH
        assert lock.path.read_text().endswith("h\n")
