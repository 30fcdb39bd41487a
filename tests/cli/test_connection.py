"""Which quota a command keeps to: by default, that of all who use the same key and address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.cli.connection import Connection, chosen_quota
from stable_async.config import Quota
from stable_async.quota import SharedQuota

if TYPE_CHECKING:
    from pathlib import Path


def test_commands_share_the_quota_of_key_and_address() -> None:
    assert chosen_quota(Connection()) == Quota(scope="key")


def test_a_named_file_is_shared_instead(tmp_path: Path) -> None:
    shared = chosen_quota(Connection(shared_quota=str(tmp_path / "quota")))
    assert shared == SharedQuota.file(tmp_path / "quota")


def test_a_sandbox_of_its_own_and_no_quota_share_nothing() -> None:
    assert chosen_quota(Connection(sandbox=True)) == Quota(scope="client")
    assert chosen_quota(Connection(no_quota=True)) is None
