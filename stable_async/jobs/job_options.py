"""The options that a job was started with: a run with others would buy other images."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from stable_async.api.services import service_name
from stable_async.errors import ConfigurationError
from stable_async.jobs.columns import ColumnRules
from stable_async.jobs.errors import JobChangedError
from stable_async.jobs.prompt_file import STDIN, PromptFile
from stable_async.jobs.rules import PromptRules
from stable_async.jobs.shard import WHOLE, Shard
from stable_async.wording import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stable_async.jobs.ledger import Ledger
    from stable_async.jobs.settings import JobSettings

__all__ = [
    "SANDBOX",
    "JobOptions",
    "budget_of",
    "changed_error",
    "check_chosen",
    "check_place",
    "find_differences",
]

SANDBOX = "sandbox"
"""The server of jobs whose images were made by a sandbox."""

# Their key in the ledger, and the one that jobs from before 2026-11-26 have.
NAME = "options"
OLD_NAME = "begun"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The options that a job was started with, as JSON values.

    Attributes:
        server: Address of the API, or `SANDBOX`.
        prompts: Absolute path of the prompt file; `-` for a source that can be read only once.
        folder: The folder that input files are relative to.
        service: The service of rows that name none.
        set: Values that replace those of every row.
        vary: Values that every row is made with, once each.
        reading: How the prompt file is read; see `PromptFile.reading`.
        allow_duplicates: Whether the same request with the same seed may be made more than once.
        shard: The part of the rows that the job makes; empty means all.
        price: Credits that are counted for a row whose price no source states.
        budget: Credits that all runs of the job may spend, as the last one had it; a run with
            another one is not refused.
    """

    server: str
    prompts: str
    folder: str
    service: str
    set: Mapping[str, str]
    vary: Mapping[str, list[str]]
    reading: Mapping[str, object]
    allow_duplicates: bool = False
    shard: str = ""
    price: float | None = None
    budget: float | None = None

    @classmethod
    def of(cls, prompts: PromptFile, rules: PromptRules, *, server: str) -> JobOptions:
        """Return the options of a run."""
        once = prompts.path is None and prompts.format != "folder"
        return cls(
            server=server,
            prompts=STDIN if once else os.path.abspath(prompts.name),  # noqa: PTH100 - as given
            folder=str(prompts.folder),
            service=service_name(rules.service),
            set=dict(rules.set),
            vary={name: list(values) for name, values in rules.vary.items()},
            reading=prompts.reading,
            allow_duplicates=rules.allow_duplicates,
            shard="" if rules.shard == WHOLE else str(rules.shard),
            price=rules.price,
        )

    @classmethod
    def load(cls, ledger: Ledger) -> JobOptions | None:
        """Return the options that the job of a ledger was started with; `None` if they are not
        known.
        """
        text = ledger.get(NAME) or ledger.get(OLD_NAME)
        return cls.parse(json.loads(text)) if isinstance(text, str) else None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> JobOptions:
        """Return what was stored; keys of newer versions are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def store(self, ledger: Ledger) -> None:
        """Store these options in a ledger."""
        ledger.set(**{NAME: json.dumps(asdict(self))})

    def differences(self, now: JobOptions) -> list[str]:
        """Return the options that differ in another run; the name of the prompt file does not
        count.
        """
        found = []
        for name in ("server", "service", "set", "vary", "shard", "price"):
            before, after = getattr(self, name), getattr(now, name)
            if before != after:
                # `run --out DIR` sends nothing to an address that only the folder names.
                how = f" (--base-url {before})" if name == "server" and before != SANDBOX else ""
                found.append(f"{name} was {_shown(before)}{how} and is {_shown(after)}")
        found += [
            f"{name.replace('_', '-')} was {_shown(before)} and is {_shown(now.reading[name])}"
            for name, before in self.reading.items()
            if name in now.reading and now.reading[name] != before
        ]
        return found

    def prompt_file(self) -> PromptFile | None:
        """Return the prompt file, to read it again; `None` if it could be read only once.

        Raises:
            PromptFileError: It no longer exists.
        """
        if self.prompts == STDIN:
            return None
        reading = dict(self.reading)
        rules = ColumnRules(
            service=self.service,
            given=frozenset((*self.set, *self.vary)),
            **{name: reading.pop(name) for name in ("prompt_column", "map", "keep", "drop")},  # type: ignore[arg-type]  # as it was stored
        )
        if reading["format"] == "folder":
            del reading["format"]
        return PromptFile(self.prompts, rules=rules, **reading)  # type: ignore[arg-type]

    def rules(self, limit: int | None = None, sample: int | None = None) -> PromptRules:
        """Return how rows become images."""
        return PromptRules(
            service=self.service,
            set=self.set,
            vary={name: tuple(values) for name, values in self.vary.items()},
            limit=limit,
            sample=sample,
            allow_duplicates=self.allow_duplicates,
            shard=Shard.parse(self.shard) if self.shard else WHOLE,
            price=self.price,
        )


def budget_of(before: JobOptions | None, settings: JobSettings) -> tuple[float | None, list[str]]:
    """Return the budget of a run of a job that has these options, and what to tell the user."""
    if settings.budget is not None or not settings.same_budget or before is None:
        return settings.budget, []
    if before.budget is None:
        return None, []
    note = (
        f"the budget is still {count(before.budget, 'credit')}; another --budget replaces it, "
        "--budget inf removes it"
    )
    return before.budget, [note]


def check_chosen(prompts: PromptFile | None, rules: PromptRules, *, check: bool) -> None:
    """Refuse rules that choose rows, where a run could not follow them and would make all.

    Args:
        prompts: The prompt file; `None` if the run works from the ledger.
        rules: How its rows become images.
        check: Whether the whole file is read before anything is sent.

    Raises:
        ConfigurationError: There are such rules.
    """
    chosen = {"limit": rules.limit, "sample": rules.sample}
    for name, value in chosen.items():
        if value is not None and prompts is None:
            allowed = "only with the prompts, which this job could read only once"
            raise ConfigurationError(f"{name} is {value}; allowed: {allowed}")
    if rules.sample is not None and not check:
        allowed = "only with the check of the prompt file"
        raise ConfigurationError(f"sample is {rules.sample}; allowed: {allowed}")


def find_differences(
    ledger: Ledger, before: JobOptions | None, now: JobOptions, settings: JobSettings
) -> list[str]:
    """Return the differences between the options of a job and of a run that must refuse them.

    There are none before anything is paid, and where the settings accept them.

    Raises:
        JobChangedError: Only one of the two uses a sandbox.
    """
    if before is None or not ledger.has_charges():
        return []
    found = before.differences(now)
    if (before.server == SANDBOX) is not (now.server == SANDBOX):
        raise JobChangedError(
            f"{settings.folder}: {'; '.join(found)}: images of the sandbox and of the API do not "
            "go into one job; choose another folder"
        )
    return [] if settings.change else found


def check_place(ledger: Ledger, settings: JobSettings, shard: Shard) -> None:
    """Refuse another location of images, or another part, than those of the job.

    Raises:
        JobChangedError: They differ; nothing accepts that.
    """
    wanted, images = settings.images or "", ledger.get("images")
    if images is not None and str(images).rstrip("/") != wanted.rstrip("/"):
        raise JobChangedError(
            f"{settings.folder}: this job keeps its images in {images or 'its folder'}, not in "
            f"{wanted or 'its folder'}"
        )
    part = ledger.get("shard")
    if part not in {None, str(shard)}:
        raise JobChangedError(f"{settings.folder}: this is part {part} of a job, not {shard}")


def changed_error(
    folder: Path, differences: Sequence[str], new: int | None = None, price: float = 0.0
) -> JobChangedError:
    """Return the error for a run whose options differ from those that the job was started with.

    Args:
        folder: The folder of the job.
        differences: The differences between the options.
        new: How many rows would be new; `None` if not known.
        price: Their price, credits.
    """
    cost = ""
    if new is not None:
        total = count(price, "credit")
        cost = f" With these options {count(new, 'image')} would be new, for {total}."
    return JobChangedError(
        f"{folder} was started with other options: {'; '.join(differences)}.{cost} "
        f"`run --out {folder}` continues as before; --change accepts the new options"
    )


def _shown(value: object) -> str:
    if not value and value != 0.0:
        return "nothing"
    match value:
        case dict():
            return ", ".join(f"{key}={_shown(item)}" for key, item in value.items())
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)
