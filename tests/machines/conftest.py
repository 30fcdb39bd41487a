from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.machines.servers import Server, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this process: each takes a name of its own."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server
