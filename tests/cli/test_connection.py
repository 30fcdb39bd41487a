"""Which quota a command keeps to: what the last command sent still counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.cli.connection import Connection, quota_of
from stable_async.config import Quota
from stable_async.quota.homes.file import SharedQuota

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def books_of(monkeypatch: pytest.MonkeyPatch, key: str, url: str | None = None) -> Path:
    monkeypatch.setenv("STABILITY_API_KEY", key)
    quota = quota_of(Connection(base_url=url))
    assert isinstance(quota, SharedQuota)
    return quota.path


def test_commands_with_the_same_key_and_address_share_their_books(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    books = books_of(monkeypatch, "sk-one")
    assert books == books_of(monkeypatch, "sk-one", "https://api.stability.ai/")
    assert books != books_of(monkeypatch, "sk-two")
    assert books != books_of(monkeypatch, "sk-one", "http://127.0.0.1:8787")
    assert books.parent == tmp_path / "stable_async"
    assert "sk-one" not in str(books)


def test_a_machine_without_a_home_keeps_the_quota_within_each_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STABILITY_API_KEY", "sk-one")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert quota_of(Connection()) == Quota()


def test_a_sandbox_of_its_own_and_no_quota_share_nothing() -> None:
    assert quota_of(Connection(sandbox=True)) == Quota()
    assert quota_of(Connection(no_quota=True)) is None
