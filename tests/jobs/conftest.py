"""Fixtures: a shop, a prompt file and a job."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from stable_async import RetryPolicy, StabilityClient
from stable_async.jobs import Job, JobSettings, PromptFile, PromptRules, Summary
from tests.jobs.shop import Shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from stable_async import Quota, SharedQuota


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop().open() as shop:
        yield shop


@dataclass
class Bench:
    """Where the jobs of one test are run."""

    folder: Path
    shop: Shop

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def write(self, *rows: str | dict[str, Any], name: str = "prompts.jsonl") -> Path:
        """Write a prompt file; a text is a row with that prompt."""
        path = self.folder / name
        lines = [json.dumps({"prompt": row} if isinstance(row, str) else row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines))
        return path

    def job(self, path: Path, rules: PromptRules | None = None, **settings: object) -> Job:
        given: dict[str, Any] = {
            "folder": self.out,
            "outage_limit": 0.0,
            "probe_after": 0.0,
            **settings,
        }
        return Job(JobSettings(**given), PromptFile(str(path)), rules or PromptRules())

    def client(
        self, *, quota: Quota | SharedQuota | None = None, url: str | None = None
    ) -> StabilityClient:
        return StabilityClient(
            "sk-test",
            base_url=url or self.shop.url,
            quota=quota,
            retry=RetryPolicy(attempts=2, initial_backoff=0.001, max_backoff=0.001),
            poll_interval=0.0,
        )

    async def run(
        self, path: Path, rules: PromptRules | None = None, **settings: object
    ) -> Summary:
        job = self.job(path, rules, **settings)
        async with self.client() as client:
            summary = await job.run(client)
        assert job.progress.in_flight == 0
        return summary

    def lines(self) -> list[dict[str, Any]]:
        """Return metadata.jsonl."""
        text = (self.out / "metadata.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def images(self) -> Sequence[Path]:
        return sorted((self.out / "images").glob("*/*"))


@pytest.fixture
def bench(tmp_path: Path, shop: Shop) -> Bench:
    return Bench(tmp_path, shop)
