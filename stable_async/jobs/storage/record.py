"""A bucket's records of the job as a whole: its options, and its last runs. Calls block.

There is one `stable-async-job.json` at the prefix. `stable-async-run-I-of-N.json` holds the token
of the last run of each part: a ledger with another one is an older copy.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.jobs.errors import StorageError
from stable_async.jobs.row import to_json

if TYPE_CHECKING:
    from stable_async.jobs.shard import Shard
    from stable_async.jobs.storage.objects import Objects

__all__ = ["JOB_NAME", "JobRecord", "begin_run", "last_run", "read_record", "write_record"]

SCHEMA = 1
JOB_NAME = "stable-async-job.json"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job whose images are in a bucket.

    Attributes:
        id: Random id, stored in the ledgers of all its parts.
        shards: Number of its parts.
        options: The options that it was started with, the same for all parts.
    """

    id: str
    shards: int
    options: dict[str, object]


def read_record(objects: Objects) -> JobRecord | None:
    """Return the record of the job in a bucket; `None` if there is none.

    Raises:
        StorageError: It is not readable, or was written by a newer version.
        OSError: The bucket cannot be read.
    """
    found = _read(objects, JOB_NAME)
    match found:
        case None:
            return None
        case (
            {"id": str(identity), "shards": int(shards), "options": dict(options)}
            | {"id": str(identity), "shards": int(shards), "begun": dict(options)}  # an older one
        ):
            return JobRecord(identity, shards, options)
        case _:
            raise StorageError(f"{objects.name(JOB_NAME)} is not the record of a job")


def write_record(objects: Objects, record: JobRecord, *, replaces: bool = False) -> JobRecord:
    """Store a record, and return the one that is stored then.

    Unless it `replaces` an existing one, the first of two concurrent parts wins.
    """
    data = to_json(
        {"schema": SCHEMA, "id": record.id, "shards": record.shards, "options": record.options}
    ).encode()
    if replaces:
        objects.write_now(JOB_NAME, data)
        return record
    try:
        objects.create_now(JOB_NAME, data)
    except FileExistsError:
        return read_record(objects) or record
    return record


def last_run(objects: Objects, shard: Shard) -> str | None:
    """Return the token of the last run of a part; `None` if there was none."""
    found = _read(objects, _run_name(shard))
    return None if found is None else str(found.get("run"))


def begin_run(objects: Objects, shard: Shard) -> str:
    """Store a new token for a run of a part, and return it."""
    token = secrets.token_hex(16)
    objects.write_now(_run_name(shard), to_json({"schema": SCHEMA, "run": token}).encode())
    return token


def _run_name(shard: Shard) -> str:
    return f"stable-async-run-{shard.index}-of-{shard.count}.json"


def _read(objects: Objects, path: str) -> dict[str, object] | None:
    data = objects.read_now(path)
    if data is None:
        return None
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StorageError(f"{objects.name(path)} is not a JSON object")
    schema = found.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise StorageError(
            f"{objects.name(path)} was written by a newer stable-async (version {schema}, this "
            f"one knows {SCHEMA}): upgrade stable_async"
        )
    return found
