"""The three worlds: servers in memory, real servers as local processes, and real servers in containers."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from bootstrap.formation.client import connector
from bootstrap.runtimes.engine.runtime import EngineRuntime
from bootstrap.runtimes.process import ProcessRuntime
from bootstrap.testing import FakeRuntime, FakeServers
from tests.contract.world import World
from tests.integration.containers import image_of, ready_engine

ROUND_TRIP_SECONDS = 1.0
WORLDS = [
    "fake",
    pytest.param("process", marks=pytest.mark.servers),
    pytest.param("docker", marks=[pytest.mark.servers, pytest.mark.docker]),
]
_numbers = itertools.count()


@pytest.fixture(scope="session")
def engine_images() -> None:
    """An engine with images of test servers."""
    ready_engine().close()


@pytest.fixture(params=WORLDS)
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    if request.param == "fake":
        servers = FakeServers()
        yield World(FakeRuntime(servers), servers.connector)
        return
    real = partial(connector, timeout=ROUND_TRIP_SECONDS)
    if request.param == "process":
        made = World(ProcessRuntime(tmp_path / "s"), real)
    else:
        request.getfixturevalue("engine_images")
        # Where names are claimed.
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        # Names are unique on an engine, and others work on it at the same time.
        name = f"t{os.getpid()}-{next(_numbers)}"
        runtime = EngineRuntime(image=image_of("valkey-9.1"), pull="never")
        made = World(runtime, real, name=f"{name}t", other=f"{name}u")
    yield made
    for name in (made.name, made.other):
        assert not await made.runtime.remove(name)
