"""The manifest for Kubernetes: its command is run here as the pods of an indexed job run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from stable_async import Quota, SharedQuota
from stable_async.quota import quota_of
from stable_async.quota.shared import RedisQuota
from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import start_sandbox
from tests.examples.running import KEY
from tests.machines.servers import running
from tests.machines.test_redis import settle

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = Path("examples/kubernetes_job.yaml")
ROWS = 10


@pytest.fixture
def job() -> dict[str, Any]:
    """Return the spec of the indexed job."""
    documents = list(yaml.safe_load_all(MANIFEST.read_text()))
    (found,) = [document["spec"] for document in documents if document["kind"] == "Job"]
    return dict(found)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return what takes the place of the cluster: a quota, an API, a bucket, the command."""
    command = tmp_path / "bin" / "stable-async"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m stable_async "$@"\n')
    command.chmod(0o755)
    with running(tmp_path) as redis, start_sandbox(SandboxSettings()) as sandbox:
        quota = quota_of(SharedQuota.redis(redis.url), KEY, sandbox.url)
        assert isinstance(quota, RedisQuota)
        settle(redis, str(quota.name), Quota())
        yield {
            **os.environ,
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "IMAGES": (tmp_path / "bucket").as_uri(),
            "PROMPTS": str(tmp_path / "prompts.jsonl"),
            "STABILITY_API_KEY": KEY,
            "STABILITY_BASE_URL": sandbox.url,
            "STABILITY_SHARED_QUOTA": redis.url,
        }


def test_each_pod_makes_its_part(
    job: dict[str, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    rows = [{"id": f"row-{n}", "prompt": f"a lighthouse, take {n}"} for n in range(ROWS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (container,) = job["template"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    # What the manifest sets, the test sets as well.
    assert values.keys() <= {*environment, "PARTS", "OUT"}
    parts = job["completions"]
    assert int(values["PARTS"]) == parts
    pods = [
        subprocess.Popen(
            container["command"],
            env={
                **environment,
                "PARTS": values["PARTS"],
                "OUT": str(tmp_path / f"pod{index}"),
                "JOB_COMPLETION_INDEX": str(index),
            },
            stdout=subprocess.DEVNULL,
        )
        for index in range(parts)
    ]
    assert [pod.wait() for pod in pods] == [0] * parts
    bucket = tmp_path / "bucket"
    assert len(list(bucket.glob("*/*.png"))) == ROWS
    facts = [json.loads(path.read_text()) for path in bucket.glob("*/*.json")]
    assert {fact["id"] for fact in facts} == {row["id"] for row in rows}
