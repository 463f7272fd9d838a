"""The lock on a name that all users of an engine share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import docker
import pytest

from bootstrap.errors import Conflict
from bootstrap.runtimes.engine import locks

pytestmark = pytest.mark.docker

TAKE_AND_DIE = """
import os, sys
import docker
from bootstrap.runtimes.engine import locks
locks.take(docker.from_env().api, sys.argv[1])
os._exit(0)
"""


@pytest.fixture
def name(engine: docker.DockerClient) -> Iterator[str]:
    name = f"lock-{os.getpid()}x"
    yield name
    if exists(engine, name):
        engine.api.remove_volume(locks.volume_of(name))


def exists(engine: docker.DockerClient, name: str) -> bool:
    found = engine.api.volumes(filters={"name": locks.volume_of(name)})["Volumes"] or []
    return any(each["Name"] == locks.volume_of(name) for each in found)


def test_it_is_taken_once_and_gone_afterwards(engine: docker.DockerClient, name: str) -> None:
    mark = locks.take(engine.api, name)
    with pytest.raises(Conflict) as caught:
        locks.take(engine.api, name)
    assert caught.value.code == "busy"
    assert f"`docker volume rm {locks.volume_of(name)}`" in caught.value.hint
    locks.let_go(engine.api, name, "somebody else's mark")
    assert exists(engine, name)
    locks.let_go(engine.api, name, mark)
    assert not exists(engine, name)
    locks.let_go(engine.api, name, mark)


def test_that_of_a_killed_command_counts_for_nothing(engine: docker.DockerClient, name: str) -> None:
    subprocess.run([sys.executable, "-c", TAKE_AND_DIE, name], check=True, timeout=30)
    assert exists(engine, name)
    locks.let_go(engine.api, name, locks.take(engine.api, name))
    assert not exists(engine, name)


def test_one_that_the_engine_was_not_told_of_counts_for_nothing(
    engine: docker.DockerClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = locks.take(engine.api, name)
    # An engine that died meanwhile still has it, and this process lives on.
    locks._held.discard(mark)
    again = locks.take(engine.api, name)
    assert again != mark
    locks.let_go(engine.api, name, again)


@pytest.mark.parametrize(
    "owner", [json.dumps({"pid": 1, "started": 1.0, "machine": "another machine"}), "null", "[]", "x", "{}"]
)
def test_one_whose_owner_cannot_be_asked_for_holds(engine: docker.DockerClient, name: str, owner: str) -> None:
    engine.api.create_volume(locks.volume_of(name), labels={locks.MARK: "theirs", locks.OWNER: owner})
    with pytest.raises(Conflict):
        locks.take(engine.api, name)
    locks.let_go(engine.api, name, "ours")
    assert exists(engine, name)
