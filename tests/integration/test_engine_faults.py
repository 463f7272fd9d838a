"""An engine that dies, and one whose disk is full: one clear error, and a way back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from .containers import Containers, remove
from .engines import OwnEngine, into, own_engine
from .faults import at_moment, refused
from .registries import push_new, registry

pytestmark = [
    pytest.mark.servers,
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.xdist_group("own-engine"),
]

SOME = ("--nodes", 3, "--replicas", 0)
SOON = 20
"""Seconds in which a command notices that its engine is gone, and ends."""


@pytest.fixture(scope="module")
def shared(engine: docker.DockerClient) -> Iterator[OwnEngine]:
    with own_engine(engine, size="150m") as own:
        yield own


@pytest.fixture
def own(shared: OwnEngine) -> OwnEngine:
    """The engine, running and with room."""
    shared.make_room()
    shared.ensure()
    return shared


@pytest.fixture
def theirs(own: OwnEngine, tmp_path: Path) -> Iterator[Containers]:
    """A command for containers of that engine."""
    made = own.containers(tmp_path / "state")
    yield made
    own.make_room()
    own.ensure()
    remove(made)


# An engine that dies.


@pytest.mark.parametrize("way_back", [pytest.param("create", marks=pytest.mark.slow), "delete"])
@pytest.mark.parametrize(
    "moment",
    [
        {"event": "phase.started", "phase": "network"},
        {"event": "node.started"},
        {"event": "phase.started", "phase": "slots"},
        {"event": "phase.started", "phase": "agree"},
    ],
    ids=["network", "start", "slots", "agreement"],
)
def test_an_engine_that_dies_midway(theirs: Containers, own: OwnEngine, moment: dict[str, str], way_back: str) -> None:
    outcome = at_moment(theirs, moment, own.end, *SOME)
    assert outcome.code == 3, outcome.events
    assert outcome.seconds < SOON
    assert outcome.error["code"] in ("engine-gone", "no-engine")
    assert f"Docker Engine answers at {own.host}" in outcome.error["message"] or (
        f"the Docker Engine at {own.host} ended the connection" in outcome.error["message"]
    )
    # Nobody can say what is left, but how it goes away.
    assert f'"{theirs.name}" could not be removed: ' in outcome.messages
    assert own.host in outcome.messages
    assert f"`valkey-bootstrap delete --name {theirs.name}`" in outcome.messages
    assert "(no-engine)" in theirs.fails(3, "delete")

    own.start()
    if way_back == "create":
        done = theirs(*SOME)
        if done.returncode != 0:
            # An engine that died while it started a container may hold the port for nobody until it is started again.
            assert "was taken by docker-proxy" in done.stderr, done.stderr
            own.end(signal.SIGTERM)
            own.start()
            theirs.ok(*SOME)
        theirs.ok("status", "--exit-code")
    theirs.ok("delete")
    theirs.assert_nothing_left()


def test_an_engine_that_is_stopped_midway(theirs: Containers, own: OwnEngine) -> None:
    # It ends the servers first, and either may be noticed.
    outcome = at_moment(theirs, {"event": "phase.started", "phase": "agree"}, lambda: own.end(signal.SIGTERM), *SOME)
    assert outcome.code in (3, 5), outcome.events
    assert outcome.seconds < SOON
    assert outcome.error["message"]
    own.start()
    theirs.ok("delete")
    theirs.assert_nothing_left()


def test_an_engine_that_dies_during_a_pull(theirs: Containers, own: OwnEngine, tmp_path: Path) -> None:
    with registry(tmp_path, into(own.pid)) as whole:
        push_new(own.client, whole.image())
        with whole.stalling(2_000_000) as (slow, _):
            outcome = at_moment(
                theirs,
                {"event": "phase.progressed", "phase": "pull"},
                own.end,
                *SOME,
                *("--pull", "always", "--image", slow.image()),
            )
    assert outcome.code == 3
    assert outcome.seconds < SOON
    assert outcome.error["code"] == "engine-gone"
    assert f"the Docker Engine at {own.host} ended the connection" in outcome.error["message"]
    own.start()
    # It could not be told that its lock is free; the next command sees whose it was.
    theirs.ok("delete")
    theirs.assert_nothing_left()


# An engine whose disk is full.


@pytest.mark.parametrize("left", [0, 16, 40, 80])
def test_a_full_disk(theirs: Containers, own: OwnEngine, left: int) -> None:
    own.fill(left)
    told = refused(theirs, 3, *SOME)
    assert "error: the engine has no space left to " in told
    assert "(no-space)" in told
    assert "`docker system df`" in told.partition("hint: ")[2]
    assert "Nothing is left" in told


@pytest.mark.slow
def test_a_disk_that_becomes_full_while_the_cluster_forms(theirs: Containers, own: OwnEngine) -> None:
    moment = {"event": "phase.started", "phase": "slots"}
    outcome = at_moment(theirs, moment, own.fill_up, *SOME, "--timeout", 6)
    # Servers die of it, and it depends on what the engine can still note down whether that shows before the deadline.
    assert outcome.code in (5, 6), outcome.events
    assert outcome.seconds < 2 * SOON
    assert any(name.startswith(theirs.name) for name in outcome.error["nodes"])
    (finished,) = outcome.of("rollback.finished")
    assert finished["left"] == []
    logs = "".join(each.read_text() for each in Path(finished["logs"]).iterdir())
    assert "No space left on device" in logs + str(outcome.error["nodes"])
    theirs.assert_nothing_left()


def test_a_disk_too_full_for_an_image(theirs: Containers, own: OwnEngine, tmp_path: Path) -> None:
    with registry(tmp_path, into(own.pid)) as found:
        push_new(own.client, found.image())
        own.fill(1024)
        told = refused(theirs, 3, *SOME, "--pull", "missing", "--image", found.image())
    assert f"error: the engine has no space left to pull {found.image()} (no-space)" in told
