"""Pipelines of Ray: one quota and one budget, and nothing lost when actors are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from stable_async import Quota, SharedQuota
from stable_async.errors import ConfigurationError
from stable_async.integrations.ray import ClusterBudget, MakeImages
from stable_async.quota import QuotaLimiter
from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import SandboxProcess, start_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-ray-0123456789"  # as in conftest.py
QUOTA = Quota(requests=20, window=0.3, jitter=0.02, adaptive=False)
ROWS = 20

# Ray warns of its own settings.
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABILITY_API_KEY", KEY)


@pytest.fixture
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox(SandboxSettings(counting="off")) as one:
        yield one


def rows(count: int = ROWS) -> ray.data.Dataset:
    return ray.data.from_items(
        [{"id": f"row {n}", "prompt": f"a lighthouse, take {n}"} for n in range(count)]
    )


def pipeline(
    sandbox: SandboxProcess, images: Path, count: int = ROWS, **settings: object
) -> ray.data.Dataset:
    arguments = {
        "images": str(images),
        "quota": SharedQuota.ray("pipeline", QUOTA),
        "base_url": sandbox.url,
        **settings,
    }
    return rows(count).map_batches(
        MakeImages,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=10,
        num_cpus=0.1,
    )


async def send(limiter: QuotaLimiter, count: int) -> None:
    async def one() -> None:
        while not (await limiter.acquire()).mark_sent():
            pass

    await asyncio.gather(*(one() for _ in range(count)))


async def test_limiters_of_a_cluster_share_one_quota() -> None:
    shared = SharedQuota.ray(uuid.uuid4().hex, QUOTA)
    one, other = (QuotaLimiter(QUOTA, home=shared.home()) for _ in range(2))
    await one.open()
    await other.open()
    began = time.monotonic()
    await asyncio.gather(send(one, 15), send(other, 15))
    # The first start of 2.32 s, and the second window.
    assert time.monotonic() - began > 2.3 + 0.3
    await one.aclose()
    await other.aclose()


async def test_other_terms_are_refused() -> None:
    name = uuid.uuid4().hex
    one = QuotaLimiter(SharedQuota.ray(name, QUOTA))
    await one.open()
    with pytest.raises(ConfigurationError, match="requests 20 there and 150 here"):
        await QuotaLimiter(Quota(), home=SharedQuota.ray(name).home()).open()
    await one.aclose()


def test_rows_go_in_and_facts_come_out(sandbox: SandboxProcess, tmp_path: Path) -> None:
    made = pipeline(sandbox, tmp_path).take_all()
    assert {one["state"] for one in made} == {"done"}
    assert len({one["id"] for one in made}) == ROWS
    assert not any("image" in name or "data" in name for name in made[0])
    assert len(list(tmp_path.glob("*/*.png"))) == ROWS
    again = pipeline(sandbox, tmp_path).take_all()
    assert not any(one["made"] for one in again)
    assert sorted(one["sha256"] for one in again) == sorted(one["sha256"] for one in made)


def test_one_budget_holds_for_all_actors(sandbox: SandboxProcess, tmp_path: Path) -> None:
    budget = ClusterBudget(uuid.uuid4().hex, 30.0)
    made = pipeline(sandbox, tmp_path, budget=budget).take_all()
    assert sum(one["state"] == "done" for one in made) == 10
    assert sum(one["reason"] == "budget" for one in made) == ROWS - 10


def test_the_example_makes_what_a_table_asks_for(sandbox: SandboxProcess, tmp_path: Path) -> None:
    table = {"id": [f"row {n}" for n in range(6)], "prompt": ["a lighthouse"] * 6}
    pq.write_table(pa.table(table), tmp_path / "prompts.parquet")
    program = (
        "import ray, sys\n"
        "ray.init(address='local', _node_ip_address='127.0.0.1', include_dashboard=False)\n"
        "from examples import ray_pipeline\n"
        "ray_pipeline.main(*sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program]
    command += [str(tmp_path / name) for name in ("prompts.parquet", "images", "made")]
    environment = {**os.environ, "STABILITY_BASE_URL": sandbox.url}
    environment.pop("RAY_ADDRESS", None)
    subprocess.run(command, env=environment, check=True, timeout=280)
    made = pq.read_table(tmp_path / "made").to_pylist()
    assert [one["state"] for one in made] == ["done"] * 6


def test_what_was_in_flight_when_actors_and_driver_were_killed_is_in_doubt(
    tmp_path: Path,
) -> None:
    """All images in the end; nothing is paid twice unasked, and in doubt is what was in flight."""
    count = 60
    with start_sandbox(SandboxSettings(counting="off", latency=1.0)) as sandbox:
        program = (
            "import ray, sys\n"
            "ray.init(address='local', _node_ip_address='127.0.0.1', include_dashboard=False)\n"
            "from stable_async import Quota, SharedQuota\n"
            "from stable_async.integrations.ray import MakeImages\n"
            "quota = SharedQuota.ray('p', Quota(20, 1.0, jitter=0.02, adaptive=False))\n"
            "rows = [{'id': f'row {n}', 'prompt': 'x'} for n in range(int(sys.argv[3]))]\n"
            "settings = dict(images=sys.argv[1], quota=quota, base_url=sys.argv[2])\n"
            "settings['resend_doubtful'] = len(sys.argv) > 4\n"
            "made = ray.data.from_items(rows).map_batches(MakeImages,\n"
            "    fn_constructor_kwargs=settings, batch_size=10, num_cpus=0.1,\n"
            "    compute=ray.data.ActorPoolStrategy(size=2))\n"
            "print(*(one['state'] for one in made.iter_rows()), sep='\\n', flush=True)\n"
        )
        images = tmp_path / "images"
        arguments = [sys.executable, "-c", program, str(images), sandbox.url, str(count)]

        def facts() -> list[dict[str, object]]:
            return [json.loads(path.read_text()) for path in images.glob("*/*.json")]

        def charged() -> int:
            callers = cast("list[dict[str, int]]", sandbox.bill()["callers"])
            return sum(caller["requests"] for caller in callers)

        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as killed:
            while len(list(images.glob("*/*.png"))) < 10:
                assert killed.poll() is None
                time.sleep(0.05)
            # The driver, and with it all actors.
            os.killpg(killed.pid, signal.SIGKILL)
        time.sleep(2.0)
        claimed = len(facts())
        there = len(list(images.glob("*/*.png")))
        second = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=280)
        states = second.stdout.split()
        assert states.count("in doubt") == claimed - there
        assert states.count("done") == count - (claimed - there)
        # A claim may be of a request that did not leave any more.
        assert states.count("done") <= charged() <= count
        third = subprocess.run(
            [*arguments, "resend"], capture_output=True, text=True, check=True, timeout=280
        )
        assert third.stdout.split() == ["done"] * count
        assert count <= charged() <= count + claimed - there
