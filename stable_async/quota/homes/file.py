"""One quota for all processes of a machine: the books in a small file that all of them enter into.

docs/quota-file.md says why this cannot breach, and why nobody who is killed or stopped blocks the
others.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from stable_async.config import Quota
from stable_async.errors import ConfigurationError
from stable_async.quota.homes.append_log import Journal, NotAJournalError
from stable_async.quota.homes.replica import Entry, SharedState
from stable_async.quota.state import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stable_async.quota.homes.replica import Kind, State
    from stable_async.quota.state import Extract

__all__ = ["FileBooks", "SharedQuota"]

logger = logging.getLogger("stable_async.quota")

MAGIC = "stable_async shared quota"
FORMAT = 1
SEAL = "sealed"

# A file longer than this, bytes, is continued in a new one that begins with what matters still.
ROTATE_AT = 256 * 1024

# How often to look again while another process has an open slot, seconds: it may give it back, or
# may have been killed.
LOOK_AGAIN = 0.1

# A process that finds itself later than this after the time it entered, seconds, was stopped in
# between: what it is about to send leaves later than the books say.
LATE = 0.1

# By how much the clocks that processes read may differ, seconds.
AHEAD = 1.0

# How often a process says that it waits, seconds.
CLAIM_EVERY = 0.4


@dataclass(frozen=True, slots=True)
class SharedQuota:
    """A quota that several processes of one machine share: `StabilityClient(quota=...)`.

    Attributes:
        path: The file of the books. On a local file system, in a folder that only the service can
            write to; it need not survive a reboot, so `/run` is a good place.
        quota: What the server allows the key; the same in all processes.
    """

    path: Path
    quota: Quota = field(default_factory=Quota)

    @classmethod
    def file(
        cls,
        path: str | os.PathLike[str],
        quota: Quota = Quota(),  # noqa: B008 - frozen
    ) -> SharedQuota:
        """Share `quota` with every process of this machine that names the same file.

        The file is made, readable by its owner only, when a client opens it.

        Raises:
            ConfigurationError: This system has no files that several processes can add to safely.
        """
        if os.name != "posix":
            raise ConfigurationError("a quota can be shared by a file on Linux, macOS and BSD only")
        return cls(Path(path).absolute(), quota)

    def books(self) -> FileBooks:
        """Give the books, for a `QuotaLimiter` without a client; `close` them in the end."""
        return FileBooks(self.path, self.quota)


class FileBooks:
    """Books in a file that other processes enter into as well.

    Every method reads what the others have entered, and raises `ConfigurationError` when the file
    cannot be read or written any more.
    """

    def __init__(
        self, path: Path, quota: Quota, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; the file is opened by the first use. `clock` is what times are taken from."""
        self._path = path
        self._quota = quota
        self._clock = clock
        self._state = SharedState(quota)
        self._journal: Journal | None = None
        self._unread: list[str] = []
        self._number = 0
        self._seat = ""
        self._process = 0
        self._closed = False
        self._waited = False
        self._claimed = float("-inf")

    def open(self) -> None:
        """Open the file, or make it; harmless when it is open.

        Raises:
            ConfigurationError: The file is something else, belongs to another quota or version,
                or cannot be opened.
        """
        self._closed = False
        if self._journal is None or self._process != os.getpid():
            self._seat, self._process = _seat(), os.getpid()
            with self._explained():
                self._begin(Journal.open(self._path, MAGIC.encode()), None)
                self._catch_up()

    def close(self) -> None:
        """Close the file; harmless when it is closed. Open slots count as departures later."""
        self._closed = True
        self._leave()

    def reserve(self, now: float, *, bulk: bool = False) -> Slot | float:
        """Give an open slot, or the time at which to ask again."""
        with self._entering():
            while True:
                when = self._when(now, bulk=bulk)
                if when > now:
                    self._waited = True
                    self._claim(now, bulk=bulk)
                    return when
                if self._enter("reserve", now, value=float(self._waited), bulk=bulk):
                    self._waited = False
                    self._claimed = float("-inf")
                    return Slot(self._number)

    def stamp(self, slot: Slot, now: float) -> bool:
        """Count the request of an open slot as left now, unless that is not allowed any more."""
        with self._entering():
            while self._enter("stamp", now, slot=slot.number):
                slot.left = now
                if self._clock() - now <= LATE:
                    return True
                # The entry came late. It stands for nobody; this request needs another one.
                now = self._clock()
            return False

    def release(self, slot: Slot, now: float) -> None:
        """Take an open slot back: its request never left."""
        if not self._closed:
            with self._entering():
                self._enter("release", now, slot=slot.number)

    def penalise(self, now: float, retry_after: float | None, slot: Slot | None) -> None:
        """Shut all processes out, for `retry_after` seconds or the quota's penalty."""
        with self._entering():
            if slot is None:
                self._enter("penalise", now, value=retry_after)
            else:
                self._enter("penalise", now, value=retry_after, slot=slot.number, left=slot.left)

    def observe(self, delay: float, *, set_up: bool = False) -> None:
        """Take a measured delay, seconds; nothing unless the quota is adaptive."""
        if self._quota.adaptive:
            with self._entering():
                self._enter("set_up" if set_up else "observe", self._clock(), value=delay)

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Give the time from which a request with `ahead` others before it might leave."""
        with self._entering():
            return self._state.earliest_at(now, ahead) if ahead else self._state.next

    def extract(self, now: float) -> Extract:
        """Give the figures of this moment, for all processes; when closed, as last seen."""
        if self._closed:
            return self._state.extract_at(now)
        with self._entering():
            return self._state.extract_at(now)

    @contextmanager
    def _entering(self) -> Iterator[None]:
        if self._closed:
            raise ConfigurationError("the shared quota's file was closed")
        self.open()
        with self._explained():
            self._catch_up()
            yield

    def _when(self, now: float, *, bulk: bool) -> float:
        """Give the time at which to ask again; `now` if a request may leave."""
        if self._state.next > now:
            self._look_for_the_dead(now)
        when = max(self._state.next, self._state.yields_until(self._seat, now, bulk=bulk))
        if when > now and any(self._state.others_open(self._seat)):
            return min(when, now + LOOK_AGAIN)
        return when

    def _look_for_the_dead(self, now: float) -> None:
        """Count the open slots of those who were killed, or stopped for long, as departures."""
        for seat, seen in list(self._state.others_open(self._seat)):
            lapses = seen + self._state.lease
            if lapses > now and _is_dead(seat):
                lapses = now
            if lapses <= now:
                self._enter("lapse", lapses, value=seen, other=seat)

    def _claim(self, now: float, *, bulk: bool) -> None:
        if now - self._claimed >= CLAIM_EVERY:
            self._claimed = now
            self._enter("claim", now, bulk=bulk)

    def _enter(
        self,
        kind: Kind,
        now: float,
        *,
        slot: int | None = None,
        value: float | None = None,
        left: float | None = None,
        bulk: bool = False,
        other: str = "",
    ) -> bool:
        """Make an entry, and give what became of it after all that others entered before."""
        self._number += 1
        entry = Entry(self._seat, self._number, kind, now, slot, value, left, bulk, other)
        text = json.dumps(entry)
        outcome = None
        # It is not in the books if they were moved in between.
        while outcome is None:
            self._journal_open.append(text)
            self._catch_up()
            outcome = self._state.outcome(self._seat, self._number)
        if self._journal_open.size > ROTATE_AT:
            self._rotate()
        return outcome

    def _catch_up(self) -> None:
        """Apply what was entered since, and follow the books wherever they were moved."""
        while True:
            # In this order: what was entered while the file was in its place is read below by
            # everybody, whoever moves the books.
            in_place = self._journal_open.is_at(self._path)
            successor = self._apply_new()
            if successor:
                self._follow(successor)
            elif in_place:
                return
            else:
                self._put_back()

    def _apply_new(self) -> str:
        """Apply what was entered since; give the name of the next file if this one is sealed."""
        lines, self._unread = self._unread + self._journal_open.read(), []
        for text in lines:
            if text.startswith(SEAL):
                return text.removeprefix(SEAL).strip()
            if not text.startswith(MAGIC):
                self._state.apply(Entry(*json.loads(text)))
        return ""

    def _begin(self, journal: Journal, state: State | None) -> None:
        """Go on in `journal`, beginning it with `state` if nobody has."""
        fresh = SharedState(self._quota)
        try:
            # Whoever opens a journal sees to it that it has a beginning: it is the first line.
            while not (lines := journal.read()):
                journal.append(self._beginning(state))
            terms = cast("dict[str, object]", json.loads(lines[0].removeprefix(MAGIC)))
            same_boot = terms["boot"] == _boot_id()
            if same_boot:
                self._check(terms)
                if terms["state"] is not None:
                    fresh.restore(cast("State", terms["state"]))
                # Where the system does not say it, a clock that was set back does.
                same_boot = fresh.now <= self._clock() + AHEAD
        except BaseException:
            journal.close()
            raise
        self._leave()
        self._journal = journal
        self._state = fresh if same_boot else SharedState(self._quota)
        self._unread = lines[1:]
        if not same_boot:
            self._unread = [line for line in lines if line.startswith(SEAL)]
            # Its clock has begun anew, and no process of that time is left.
            self._rotate()

    def _beginning(self, state: State | None) -> str:
        terms = {
            "format": FORMAT,
            "boot": _boot_id(),
            "quota": _terms(self._quota),
            "state": state,
        }
        return f"{MAGIC} {json.dumps(terms)}"

    def _rotate(self) -> None:
        """Have everybody go on in a new file."""
        successor = self._beside()
        Journal.open(successor, MAGIC.encode()).close()
        self._journal_open.append(f"{SEAL} {successor.name}")
        chosen = self._apply_new()
        if chosen != successor.name:
            successor.unlink(missing_ok=True)  # somebody was faster
        if chosen:
            self._follow(chosen)

    def _follow(self, name: str) -> None:
        """Go on in the file that follows this one.

        Its beginning is the same whoever writes it. Its own name is given up before anything is
        entered, so that it takes the place of its predecessor only, and once.
        """
        successor = self._path.with_name(name)
        in_place = self._journal_open.is_at(self._path)
        try:
            journal = Journal.open(successor, MAGIC.encode(), create=False)
        except FileNotFoundError:
            if self._journal_open.is_at(self._path):
                # Not in its place: it was removed, and nobody can go on as things are.
                self._path.unlink(missing_ok=True)
            self._put_back()
            return
        if in_place:
            self._begin(journal, self._state.state())
            with suppress(FileNotFoundError):
                successor.rename(self._path)
        elif journal.is_at(self._path):
            self._begin(journal, self._state.state())
        else:
            # Its predecessor was removed, and somebody has put another file there.
            journal.close()
            successor.unlink(missing_ok=True)
            self._put_back()

    def _put_back(self) -> None:
        """Go on in the file that is in place now; if there is none, put one there."""
        temporary = self._beside()
        journal = Journal.open(temporary, MAGIC.encode())
        try:
            journal.append(self._beginning(self._state.state()))
            os.link(temporary, self._path)
            logger.warning("the shared quota's file %s was removed; it is there again", self._path)
        except FileExistsError:
            pass
        finally:
            journal.close()
            temporary.unlink()
        self._begin(Journal.open(self._path, MAGIC.encode()), None)

    def _beside(self) -> Path:
        return self._path.with_name(f"{self._path.name}.{secrets.token_hex(6)}")

    def _check(self, beginning: dict[str, object]) -> None:
        if beginning["format"] != FORMAT:
            raise ConfigurationError(
                f"the shared quota's file {self._path} was made by another version of "
                "stable_async; use one version, or another file"
            )
        if beginning["quota"] != _terms(self._quota):
            raise ConfigurationError(
                f"the shared quota's file {self._path} was made for {beginning['quota']}, not for "
                f"{_terms(self._quota)}; stop the processes that use it and remove it, or take "
                "another file"
            )

    def _leave(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    @property
    def _journal_open(self) -> Journal:
        if self._journal is None:
            raise ConfigurationError("the shared quota's file was closed")
        return self._journal

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NotAJournalError:
            raise ConfigurationError(
                f"{self._path} is not a shared quota's file; it was left as it is"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"cannot use the shared quota's file {self._path}: {error.strerror or error}"
            ) from error
        except (LookupError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the shared quota's file {self._path} is damaged; stop the processes that use "
                "it, and remove it"
            ) from error


def _terms(quota: Quota) -> dict[str, object]:
    """Give what must be the same for all."""
    terms = asdict(quota)
    del terms["burst"]
    return terms


@cache
def _boot_id() -> str:
    """Tell this run of the machine from others, where the system says it; else nothing."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _seat() -> str:
    return f"{os.getpid()}.{_namespace()}.{secrets.token_hex(4)}"


@cache
def _namespace() -> int:
    """Tell whose process ids they are: containers have their own."""
    with suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino
    return 0


def _is_dead(seat: str) -> bool:
    """Say whether a process is certain to have ended."""
    process, namespace, _ = seat.split(".")
    if int(namespace) != _namespace():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
