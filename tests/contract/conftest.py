"""The two worlds: servers in memory, and real servers as local processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootstrap.formation.client import connector
from bootstrap.runtimes.process import ProcessRuntime
from bootstrap.testing import FakeRuntime, FakeServers
from tests.contract.world import World

ROUND_TRIP_SECONDS = 1.0


@pytest.fixture(params=["fake", pytest.param("process", marks=pytest.mark.servers)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        servers = FakeServers()
        yield World(FakeRuntime(servers), servers.connector)
        return
    runtime = ProcessRuntime(tmp_path / "s")
    yield World(runtime, lambda login: connector(login, timeout=ROUND_TRIP_SECONDS))
    for record in await runtime.inventory():
        assert not await runtime.remove(record.name)
