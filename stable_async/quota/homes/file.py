"""A quota that all processes of a machine share, in a small file that each of them appends to.

docs/quota-file.md says why this cannot breach, and why a killed or stopped process does not block
the others.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast
from weakref import WeakValueDictionary

from stable_async.errors import ConfigurationError
from stable_async.quota.homes.append_log import AppendLog, NotALogError
from stable_async.quota.homes.local import LocalHome
from stable_async.quota.homes.replica import COMPARED, Entry, Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.config import Quota
    from stable_async.quota.state import QuotaState

__all__ = ["FORMAT", "FileHome", "boot_id"]

logger: logging.Logger = logging.getLogger("stable_async.quota")

MAGIC = "stable_async shared quota"
FORMAT = 3
SEAL = "sealed"

# A file longer than this, bytes, and than twice its beginning, is continued in a new one that
# begins with the current state.
ROTATE_AT = 64 * 1024

# How far the clocks that processes read may differ, seconds. An entry dated later than that is not
# from a clock of this machine.
AHEAD = 1.0

# How many of its slots a process remembers, to find those that a file has lost.
REMEMBERED = 1000

# What is raised when the file cannot be used.
FAILURES = ConfigurationError, NotALogError, OSError, LookupError, TypeError, ValueError


class FileHome(LocalHome):
    """A quota home in a file that other processes append to as well."""

    def __init__(
        self,
        path: Path,
        quota: Quota,
        *,
        clock: Callable[[], float] = time.monotonic,
        shared: bool = True,
        fallback: bool = False,
    ) -> None:
        """Prepare; `open` opens the file.

        Args:
            path: The file.
            quota: The server's quota, according to this home's clients.
            clock: The source of times.
            shared: Read the file once for all homes of this process.
            fallback: If the file cannot be used, continue within this process, and log it.
        """
        store = (
            _named(path, quota, fallback) if shared else _FileStore(path, quota, fallback, clock)
        )
        super().__init__(store, quota)


class _FileStore:
    """The file, and the state after its last line."""

    def __init__(
        self,
        path: Path,
        quota: Quota,
        fallback: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lock = threading.RLock()
        self.homes: list[LocalHome] = []
        self.clock = clock
        self._path = path
        self._quota = quota
        self._fallback = fallback
        # The file could not be used: this process continues alone.
        self._alone = False
        self._replica = Replica(quota)
        self._log: AppendLog | None = None
        self._unread: list[str] = []
        # Of the log that is open. One of another boot that comes after it is another machine's.
        self._rotate_at = ROTATE_AT
        self._is_of_this_boot = False
        # The slots granted to this process, and when; the latest last.
        self._granted: deque[tuple[str, int, float]] = deque(maxlen=REMEMBERED)
        # The file may lack some of them: it was replaced, or could not be used for a while.
        self._may_lack_slots = False
        self._warned_of_time = False

    # ---- called by a home

    @property
    def state(self) -> QuotaState:
        return self._replica.state

    def acquire(self, home: LocalHome) -> None:
        self.homes.append(home)
        try:
            self.catch_up(self.clock())
        except BaseException:
            self.drop(home)
            raise

    def drop(self, home: LocalHome) -> None:
        self.homes.remove(home)
        if not self.homes:
            self._close()
            if self._alone:
                self._alone = False
                self._may_lack_slots = True
                _kept.add(self)

    def catch_up(self, now: float) -> QuotaState:
        if not self._alone:
            try:
                self._catch_up()
            except FAILURES as error:
                self._continue_alone(error)
        return self._replica.state

    def view(self, now: float) -> QuotaState:
        # Not the state itself: it may change only by entries of the file, as in all processes.
        return Replica.load(self._replica.dump()).state.advance(now)

    def enter(self, entry: Entry, due: float | None = None) -> bool:
        outcome = None
        if not self._alone:
            try:
                self._check_time(entry.time)
                text = json.dumps(entry)
                while outcome is None:  # it is not in the state if the file was replaced meanwhile
                    log = self._log or self._open()
                    log.append(text)
                    log = self._catch_up()
                    outcome = self._replica.outcome(entry.process, entry.number)
                if log.size > self._rotate_at:
                    self._rotate(log)
            except FAILURES as error:
                self._continue_alone(error)
        if outcome is None:
            self._replica.apply(entry)
            outcome = self._replica.outcome(entry.process, entry.number)
        if outcome and entry.kind == "reserve":
            self._granted.append((entry.process, entry.number, entry.time))
        return bool(outcome)

    # ---- reading

    def _open(self) -> AppendLog:
        """Open or create the file, and return it."""
        return self._begin(AppendLog.open(self._path, MAGIC.encode()), Replica(self._quota))

    def _close(self) -> None:
        log, self._log, self._is_of_this_boot = self._log, None, False
        if log is not None:
            log.close()

    def _catch_up(self) -> AppendLog:
        """Apply new entries, and follow the state to the file that it is in now; return that."""
        while True:
            log = self._log or self._open()
            # In this order: everybody reads what was appended while the file was in its place, no
            # matter who replaces the file.
            in_place = log.is_at(self._path)
            successor = self._apply_new(log)
            if successor:
                self._follow(log, successor)
            elif log.cut or not in_place:
                self._put_back(log)
            elif self._may_lack_slots:
                self._enter_lost(log)
            else:
                return log

    def _apply_new(self, log: AppendLog) -> str:
        """Apply new entries; return the name of the next file if this one is sealed."""
        lines, self._unread = self._unread + log.read(), []
        now = self.clock()
        for text in lines:
            if text.startswith(SEAL):
                return text.removeprefix(SEAL).strip()
            if text.startswith(MAGIC):
                continue
            entry = Entry(*json.loads(text))
            if entry.time <= now + AHEAD:
                self._replica.apply(entry)
            elif not self._warned_of_time:
                self._warned_of_time = True
                logger.warning(
                    "the shared quota's file %s has an entry %.3g s ahead of this machine's clock; "
                    "such entries are ignored",
                    self._path,
                    entry.time - now,
                )
        return ""

    def _begin(self, log: AppendLog, replica: Replica) -> AppendLog:
        """Continue in `log`, starting it with the state of `replica` if nobody has.

        Returns:
            The log, or the one after it.
        """
        try:
            # Every process that opens a log makes sure that it has its first line.
            while not (lines := log.read()):
                log.append(self._beginning(replica))
            beginning = cast("dict[str, object]", json.loads(lines[0].removeprefix(MAGIC)))
            same_boot = beginning["boot"] == boot_id()
            if same_boot:
                self._check(beginning)
                self._rotate_at = max(ROTATE_AT, 2 * len(lines[0]))
                replica = Replica.load(cast("dict[str, object]", beginning["replica"]))
                # If the system does not tell, a clock that was set back shows it.
                same_boot = replica.state.now <= self.clock() + AHEAD
            if not same_boot and self._is_of_this_boot:
                raise ConfigurationError(
                    f"the shared quota's file {self._path} is used by another machine as well, "
                    "whose clock is another one; use a file of its own for each machine, or "
                    "SharedQuota.redis for all of them"
                )
        except BaseException:
            log.close()
            raise
        self._close()
        self._log = log
        self._is_of_this_boot = same_boot
        self._replica = replica if same_boot else Replica(self._quota)
        self._unread = lines[1:]
        if not same_boot:
            self._unread = [line for line in lines if line.startswith(SEAL)]
            # The clock has restarted, and no process of that time is left. At worst a whole quota
            # left just before.
            if time.time() - log.status.st_mtime < 2 * self._quota.window:
                self._replica.state.depart(self._quota.requests, self.clock())
            self._rotate(log)
        return self._log

    def _beginning(self, replica: Replica) -> str:
        beginning = {"format": FORMAT, "boot": boot_id(), "replica": replica.dump()}
        return f"{MAGIC} {json.dumps(beginning)}"

    # ---- replacing the file

    def _rotate(self, sealed: AppendLog) -> None:
        """Move everybody to a new file."""
        successor = self._beside()
        AppendLog.open(successor, MAGIC.encode(), like=sealed).close()
        sealed.append(f"{SEAL} {successor.name}")
        chosen = self._apply_new(sealed)
        if chosen != successor.name:
            successor.unlink(missing_ok=True)  # another process was faster
        if chosen:
            self._follow(sealed, chosen)

    def _follow(self, sealed: AppendLog, name: str) -> None:
        """Continue in the file that follows this one.

        Its beginning is the same, no matter which process writes it. Its own name is removed before
        anything is appended, so that it replaces only its predecessor, and only once. If nobody can
        continue in it, the sealed file is no longer in its place, and the caller notices that.
        """
        successor = self._path.with_name(name)
        in_place = sealed.is_at(self._path) and not sealed.cut
        try:
            log = AppendLog.open(successor, MAGIC.encode(), create=False)
        except FileNotFoundError:
            if sealed.is_at(self._path) and not sealed.cut:
                # Not in its place: it was removed, and nobody can continue in it.
                self._path.unlink(missing_ok=True)
            return
        if in_place:
            self._begin(log, self._replica)
            with suppress(FileNotFoundError):
                successor.rename(self._path)
        else:
            # Its predecessor was removed, and another file has been put there.
            log.close()
            successor.unlink(missing_ok=True)

    def _put_back(self, lost: AppendLog) -> None:
        """Continue in the file that is in place; if it is missing or truncated, replace it."""
        temporary = self._beside()
        log = AppendLog.open(temporary, MAGIC.encode(), like=lost)
        try:
            log.append(self._beginning(self._replica))
            lost.move_away(self._path, self._beside())
            os.link(temporary, self._path)
            logger.warning(
                "the shared quota's file %s was removed or truncated; it has been restored",
                self._path,
            )
        except FileExistsError:
            pass
        finally:
            log.close()
            temporary.unlink()
        self._begin(AppendLog.open(self._path, MAGIC.encode()), self._replica)
        self._may_lack_slots = True

    def _enter_lost(self, log: AppendLog) -> None:
        """Count the slots granted to this process that the file of now does not have."""
        self._may_lack_slots = False
        _kept.discard(self)
        since = self.clock() - COMPARED * self.state.terms.window
        lost = sum(
            time > since and number > self._replica.number(process)
            for process, number, time in self._granted
        )
        if lost:
            process = f"{os.getpid()}.0.{secrets.token_hex(4)}"
            entry = Entry(process, 1, "departed", self.clock(), value=lost)
            log.append(json.dumps(entry))

    def _beside(self) -> Path:
        return self._path.with_name(f"{self._path.name}.{secrets.token_hex(6)}")

    def _check(self, beginning: dict[str, object]) -> None:
        if beginning["format"] != FORMAT:
            raise ConfigurationError(
                f"the shared quota's file {self._path} was made by another version of "
                "stable_async; use one version, or another file"
            )

    def _check_time(self, time_: float) -> None:
        ahead = time_ - self.clock()
        if ahead > AHEAD:
            # All processes ignore such an entry, this one included.
            raise ConfigurationError(
                f"the time of this event loop is {ahead:.3g} s ahead of this machine's clock, so "
                f"that it cannot use the shared quota's file {self._path}"
            )

    def _continue_alone(self, error: Exception) -> None:
        """Continue without the file if that is allowed, else report what is wrong with it.

        Raises:
            ConfigurationError: The file is something else, belongs to another version, or cannot
                be opened, read or written.
        """
        if isinstance(error, ConfigurationError):
            failure = error
        else:
            failure = ConfigurationError(self._problem(error))
            failure.__cause__ = error
        if not self._fallback:
            raise failure
        self._alone = True
        logger.warning(
            "%s; until it can be used again this process counts its own requests only", failure
        )

    def _problem(self, error: Exception) -> str:
        if isinstance(error, NotALogError):
            return f"{self._path} is not a shared quota's file; it was left as it is"
        if isinstance(error, OSError):
            return f"cannot use the shared quota's file {self._path}: {error.strerror or error}"
        return (
            f"the shared quota's file {self._path} is damaged; stop the processes that use it, and "
            "remove it"
        )


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine, or empty text if the system has none.

    Processes with the same id read the same clock: a container may have one of its own.
    """
    boot = clock = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        clock = f" {Path('/proc/self/ns/time').stat().st_ino}"
    return boot + clock


_stores: WeakValueDictionary[Path, _FileStore] = WeakValueDictionary()
_stores_lock = threading.Lock()
# Those that know of slots that their file lacks, while no client has them open.
_kept: set[_FileStore] = set()


def _named(path: Path, quota: Quota, fallback: bool) -> _FileStore:
    with _stores_lock:
        store = _stores.get(path)
        if store is None:
            store = _stores[path] = _FileStore(path, quota, fallback)
        return store


def _forget_stores() -> None:
    global _stores, _stores_lock, _kept
    _stores, _stores_lock, _kept = WeakValueDictionary(), threading.Lock(), set()


# A lock may be held by a thread that does not exist in a forked process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_stores)
