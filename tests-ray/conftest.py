"""A cluster of Ray on this machine alone; `make test-ray`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import ray

if TYPE_CHECKING:
    from collections.abc import Iterator


KEY = "sk-ray-0123456789"


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    # By default Ray listens on the machine's own address.
    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        num_cpus=4,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"STABILITY_API_KEY": KEY}},
    )
    yield
    ray.shutdown()
