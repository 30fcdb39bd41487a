"""Whose quota it is: all clients of one key and address share one, wherever they run."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import quota_sharing as sharing
from stable_async import ConfigurationError, Quota, SharedQuota, StabilityClient
from stable_async.errors import QuotaTimeoutError, WrongEventLoopError
from stable_async.quota import KeyQuota, ProcessHome, QuotaLimiter, Slot, quota_of, shared
from stable_async.quota.dispatcher import clock_of
from stable_async.quota.homes import file, local
from stable_async.quota.homes.file import FileHome
from stable_async.sandbox import Sandbox
from tests.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stable_async.quota import Snapshot

URL = "https://api.stability.ai"
# So many that nothing waits: what counts is that every request is counted in one place.
MANY = Quota(requests=1000, window=600.0)
ONE = Quota(requests=1, window=600.0)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(counting="off") as sandbox:
        yield sandbox


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be had, as in a container whose file system is read-only."""
    monkeypatch.setattr(shared, "cache_folder", lambda: None)
    shared._warn_once.cache_clear()
    monkeypatch.setattr(local, "_stores", {})


def counted(key: str, url: str) -> Snapshot:
    """Return the state of the quota that a new client of this key and address would have."""
    quota = quota_of(MANY, key, url)
    assert isinstance(quota, KeyQuota)
    home = quota.home()
    assert isinstance(home, (FileHome, ProcessHome))
    home.open_now()
    try:
        return home.snapshot(-1e9)
    finally:
        home.close_now()


WAYS = {
    "loops": sharing.loops,
    "threads": sharing.threads,
    "processes": lambda load: sharing.processes(load, 2),
    "handlers": sharing.handlers,
    "runs": lambda load: sharing.runs(load, 2),
}


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_makes_the_clients_every_request_counts_in_one_place(
    sandbox: Sandbox, way: str
) -> None:
    await asyncio.to_thread(WAYS[way], sharing.Load(sandbox.url, 12, MANY))
    assert len(sandbox.log) == 12
    snapshot = counted(sharing.KEY, sandbox.url)
    # On a busy machine some count twice, since they leave later than their entry says.
    assert 12 <= snapshot.in_window <= 24
    assert snapshot.open == 0


@pytest.mark.parametrize("way", [way for way in WAYS if way != "processes"])
@pytest.mark.usefixtures("no_folder")
async def test_where_no_file_can_be_had_it_counts_within_the_process_and_says_so_once(
    sandbox: Sandbox, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "stable_async"):
        await asyncio.to_thread(WAYS[way], sharing.Load(sandbox.url, 12, MANY))
    snapshot = counted(sharing.KEY, sandbox.url)
    assert (snapshot.in_window, snapshot.open) == (12, 0)
    assert caplog.text.count("counts its own requests only") == 1


async def test_handlers_with_a_client_each_wait_in_one_fair_queue(sandbox: Sandbox) -> None:
    quota = Quota(requests=2, window=600.0)
    async with (
        StabilityClient("sk-test", base_url=sandbox.url, quota=quota) as one,
        StabilityClient("sk-test", base_url=sandbox.url, quota=quota) as other,
        StabilityClient("sk-other", base_url=sandbox.url, quota=quota) as third,
    ):
        await one.account.balance()
        await other.account.balance()
        for client in one, other:
            with pytest.raises(QuotaTimeoutError):
                await client.account.balance(deadline=1.0)
        await third.account.balance(deadline=1.0)
    assert len(sandbox.log) == 3


async def test_a_client_that_is_closed_takes_the_quota_from_nobody(sandbox: Sandbox) -> None:
    async with StabilityClient("sk-test", base_url=sandbox.url) as one:
        async with StabilityClient("sk-test", base_url=sandbox.url) as other:
            await other.account.balance()
        await one.account.balance()
        statistics = one.quota_statistics()
        assert statistics is not None
        assert statistics.in_window == 2


async def test_the_scope_client_shares_with_nobody(sandbox: Sandbox) -> None:
    quota = Quota(requests=1, window=600.0, scope="client")
    for _ in range(2):
        async with StabilityClient("sk-test", base_url=sandbox.url, quota=quota) as client:
            await client.account.balance(deadline=1.0)
    with pytest.raises(ConfigurationError, match="scope"):
        SharedQuota.file("quota", quota)


async def test_the_environment_names_another_home(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STABILITY_SHARED_QUOTA", str(tmp_path / "named"))
    for key, deadline in (("sk-one", 1.0), ("sk-two", 1.0)):
        async with StabilityClient(key, base_url=sandbox.url, quota=MANY) as client:
            await client.account.balance(deadline=deadline)
    home = FileHome(tmp_path / "named", MANY)
    home.open_now()
    assert home.snapshot(0.0).in_window == 2
    home.close_now()


@pytest.mark.parametrize(
    ("named", "hint"),
    [
        ("quota", "an absolute path"),  # another file in every working folder
        ("~/quota", "an absolute path"),
        ("quota.internal:6379", "redis://"),  # it would be the name of a file
        (":s3cret@host:6379/0", "redis://"),
        ("redis:s3cret@host", "redis://"),
    ],
)
def test_a_name_that_every_process_would_take_for_another_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STABILITY_SHARED_QUOTA", named)
    with pytest.raises(ConfigurationError, match=hint) as error:
        quota_of(Quota(), "sk-test", URL)
    assert "s3cret" not in str(error.value)


async def test_clients_with_other_terms_keep_to_the_stricter_ones(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    strict = Quota(requests=2, window=600.0)
    async with StabilityClient("sk-test", base_url=sandbox.url, quota=MANY) as loose:
        await loose.account.balance()
        with caplog.at_level(logging.WARNING, "stable_async"):
            async with StabilityClient("sk-test", base_url=sandbox.url, quota=strict) as other:
                await other.account.balance(deadline=1.0)
                with pytest.raises(QuotaTimeoutError):
                    await loose.account.balance(deadline=1.0)
        assert caplog.text.count("the stricter terms hold for both") == 1
        await loose.account.balance(deadline=1.0)


# ---- whose it is


def name_of(key: str, url: str) -> str:
    quota = quota_of(Quota(), key, url)
    assert isinstance(quota, KeyQuota)
    return quota.name


@pytest.mark.parametrize(
    "same",
    ["https://api.stability.ai:443", "https://API.stability.ai.", "HTTPS://api.stability.ai"],
)
def test_the_address_counts_in_its_normal_form(same: str) -> None:
    assert name_of("sk-one", URL) == name_of("sk-one", same)
    assert "sk-one" not in name_of("sk-one", URL)


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("sk-two", URL),
        ("sk-one", "http://api.stability.ai"),
        ("sk-one", "https://api.stability.ai:8443"),
        ("sk-one", "https://api.stability.ai/prefix"),
        ("sk-one", "https://example.org"),
    ],
)
def test_another_key_or_address_is_another_quota(key: str, url: str) -> None:
    assert name_of(key, url) != name_of("sk-one", URL)


# ---- where it is kept


def folder_of(quota: KeyQuota) -> Path | None:
    home = quota.home()
    return home._store._path.parent if isinstance(home, FileHome) else None  # type: ignore[attr-defined]


KEY_QUOTA = KeyQuota("quota-test", Quota())


def test_the_file_is_in_the_user_s_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folder_of(KEY_QUOTA) == tmp_path / "cache" / "stable_async"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of(KEY_QUOTA) == tmp_path / ".cache" / "stable_async"


def test_a_cache_folder_that_depends_on_the_working_folder_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two programs would share nothing. The XDG specification says to ignore such a path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folder_of(KEY_QUOTA) == tmp_path / "home" / ".cache" / "stable_async"
    monkeypatch.setenv("HOME", ".")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert folder_of(KEY_QUOTA) == tmp_path / f"stable_async-{os.getuid()}"
    assert not (tmp_path / "cache").exists()


def test_machines_that_share_a_home_folder_have_files_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = set()
    for boot in "one", "another", "":
        monkeypatch.setattr(shared, "boot_id", lambda boot=boot: boot)
        home = KEY_QUOTA.home()
        assert isinstance(home, FileHome)
        home.open_now()
        home.close_now()
        names |= {path.name for path in tmp_path.glob("stable_async/quota-*")}
    assert len(names) == 3


def test_a_loop_with_a_clock_of_its_own_has_a_quota_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as one with virtual time: other processes could make nothing of its times."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    virtual = VirtualTimeLoop()
    virtual.stand_still(time.monotonic() + 1e6)

    async def send() -> float:
        limiter = QuotaLimiter(KEY_QUOTA)
        began = asyncio.get_running_loop().time()
        for _ in range(KEY_QUOTA.quota.requests + 1):
            (await limiter.acquire()).mark_sent()
        took = asyncio.get_running_loop().time() - began
        await limiter.aclose()
        return took

    loops = [virtual, VirtualTimeLoop()]
    while loops:
        with asyncio.Runner(loop_factory=loops.pop) as runner:
            assert runner.run(send()) == pytest.approx(10.3, abs=0.1)
    assert not list(tmp_path.glob("*/quota-*"))


def without_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take HOME and the user's entry away, as in a container with a user id that has none."""

    def no_home(_cls: type[Path]) -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"stable_async-{os.getuid()}"


def test_without_a_home_it_is_in_the_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = without_home(monkeypatch, tmp_path)
    assert folder_of(KEY_QUOTA) == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_to_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = without_home(monkeypatch, tmp_path)
    folder.mkdir()
    folder.chmod(0o777)
    assert folder_of(KEY_QUOTA) is None
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    assert folder_of(KEY_QUOTA) is None


def test_files_that_nobody_has_used_for_days_are_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "stable_async"
    folder.mkdir(mode=0o700)
    for name in "quota-old", "quota-new", "other":
        (folder / name).touch()
        if name != "quota-new":
            os.utime(folder / name, (1.0, 1.0))
    KEY_QUOTA.home()
    assert sorted(path.name for path in folder.iterdir()) == ["cleaned", "other", "quota-new"]
    # Many sandboxes, each with an address of its own, are not to look through each other's files.
    (folder / "quota-old").touch()
    os.utime(folder / "quota-old", (1.0, 1.0))
    KEY_QUOTA.home()
    assert (folder / "quota-old").exists()
    for cleaned in time.time() - 2 * 3600, time.time() + 2 * 3600:
        (folder / "quota-old").touch()
        os.utime(folder / "quota-old", (1.0, 1.0))
        os.utime(folder / "cleaned", (cleaned, cleaned))
        KEY_QUOTA.home()
        assert not (folder / "quota-old").exists()


def test_a_file_that_cannot_be_used_any_more_is_gone_on_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state stays what it was, and the file is tried again when it is opened next."""
    monkeypatch.setattr(local, "LATE", 60.0)  # the machine may be busy
    path = tmp_path / "cache" / "quota"
    path.parent.mkdir()
    home = FileHome(path, Quota(requests=2, window=600.0), fallback=True)
    home.open_now()
    slot = home.reserve(time.monotonic())
    assert isinstance(slot, Slot)
    path.unlink()
    path.parent.rmdir()
    with caplog.at_level(logging.WARNING, "stable_async"):
        assert home.mark_sent(slot, time.monotonic())
        assert isinstance(home.reserve(time.monotonic()), Slot)
        assert isinstance(home.reserve(time.monotonic()), float)
    assert caplog.text.count("counts its own requests only") == 1
    home.close_now()
    path.parent.mkdir()
    home.open_now()
    home.close_now()
    assert path.exists()


def test_what_left_without_the_file_counts_when_it_can_be_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether another client opens it meanwhile, or later."""
    # Records hold on to errors, and to all that those passed through.
    monkeypatch.setattr(file.logger, "disabled", True)
    path = tmp_path / "quota"
    path.write_text("notes")
    quota = Quota(requests=2, window=600.0)
    home, other = (FileHome(path, quota, fallback=True) for _ in range(2))
    home.open_now()
    for _ in range(2):
        slot = home.reserve(time.monotonic())
        assert isinstance(slot, Slot)
        home.mark_sent(slot, time.monotonic())
    path.unlink()
    other.open_now()
    for one in home, other:
        assert isinstance(one.reserve(time.monotonic()), float)
        one.close_now()
    del home, other, one
    gc.collect()  # errors hold on to what they passed through
    later = FileHome(path, quota, fallback=True)
    later.open_now()
    assert isinstance(later.reserve(time.monotonic()), float)
    assert later._store not in file._kept, "what the file has is held no longer"
    later.close_now()


def test_a_foreign_file_in_the_cache_folder_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "quota"
    path.write_text("notes")
    home = FileHome(path, Quota(), fallback=True)
    home.open_now()
    assert isinstance(home.reserve(time.monotonic()), Slot)
    home.close_now()
    assert path.read_text() == "notes"


# ---- loops, threads and forks


def in_a_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


@pytest.mark.parametrize("kind", ["process", "file"])
def test_a_slot_released_in_one_loop_goes_to_a_call_that_waits_in_another(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so long before any time at which it would ask by itself."""
    monkeypatch.setattr(local, "LOOK_AGAIN", ONE.window)
    waits = threading.Event()

    def home() -> ProcessHome | FileHome:
        return (
            ProcessHome(ONE, name=str(tmp_path))
            if kind == "process"
            else FileHome(tmp_path / "quota", ONE)
        )

    async def second() -> None:
        limiter = QuotaLimiter(ONE, home=home())
        call = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waits.set()
        (await call).release()
        await limiter.aclose()

    async def first() -> None:
        limiter = QuotaLimiter(ONE, home=home())
        permit = await limiter.acquire()
        thread = in_a_thread(lambda: asyncio.run(second()))
        await asyncio.to_thread(waits.wait)
        permit.release()
        await asyncio.to_thread(thread.join)
        await limiter.aclose()

    asyncio.run(first())


def test_a_loop_that_ended_with_a_slot_open_holds_it_no_longer_than_the_lease() -> None:
    permits = []

    async def forget() -> None:
        limiter = QuotaLimiter(home=ProcessHome(ONE, name="forgotten"))
        permits.append(await limiter.acquire())

    asyncio.run(forget())
    home = ProcessHome(ONE, name="forgotten")
    home.open_now()
    assert home.snapshot(0.0).open == 0
    assert home.snapshot(0.0).in_window == 1
    home.close_now()


def test_a_limiter_says_which_loop_it_belongs_to_and_what_is_shared() -> None:
    limiter = QuotaLimiter()
    asyncio.run(_use(limiter))
    with pytest.raises(WrongEventLoopError, match=r"make one for each loop .* share one quota"):
        asyncio.run(_use(limiter))


async def _use(limiter: QuotaLimiter) -> None:
    (await limiter.acquire()).mark_sent()


async def test_calls_that_wait_are_told_when_the_last_limiter_closes() -> None:
    limiters = [QuotaLimiter(KeyQuota("quota-closing", ONE)) for _ in range(2)]
    for limiter in limiters:
        await limiter.open()
    permit = await limiters[0].acquire()
    waiting = asyncio.create_task(limiters[1].acquire())
    await asyncio.sleep(0)
    await limiters[0].aclose()
    assert not waiting.done()
    await limiters[1].aclose()
    with pytest.raises(ConfigurationError, match="was closed"):
        await waiting
    permit.release()


def test_a_closed_limiter_may_be_opened_in_another_loop() -> None:
    limiter = QuotaLimiter(Quota(requests=2))

    async def use() -> int:
        await limiter.open()
        await _use(limiter)
        in_window = limiter.statistics().in_window
        await limiter.aclose()
        return in_window

    assert [asyncio.run(use()), asyncio.run(use())] == [1, 2]


FORK = """
import os, sys, time
from pathlib import Path
from stable_async import Quota
from stable_async.quota.homes.file import FileHome

home = FileHome(Path(sys.argv[1]), Quota())
home.open_now()
home.mark_sent(home.reserve(time.monotonic()), time.monotonic())
if not os.fork():
    home.mark_sent(home.reserve(time.monotonic()), time.monotonic())
    other = FileHome(Path(sys.argv[1]), Quota())
    other.open_now()
    other.mark_sent(other.reserve(time.monotonic()), time.monotonic())
    os._exit(0)
os.wait()
print(home.snapshot(time.monotonic()).in_window)
"""


def test_a_forked_process_counts_as_another_one(tmp_path: Path) -> None:
    output = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "quota")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout == "3\n"


def test_a_loop_whose_clock_stands_still_within_a_turn_is_not_asked_for_the_time() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    assert clock_of(loop) is not loop.time
    loop.close()
