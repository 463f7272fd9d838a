"""Several commands and several clusters at once on one engine, and the verbs that take them by name."""

from __future__ import annotations

import json
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import docker
import pytest

from .conftest import Command, ask, until
from .containers import CLUSTER, Containers, make, remove

pytestmark = [pytest.mark.servers, pytest.mark.docker]

ONE = ("--nodes", 1, "--replicas", 0)
THREE = ("--nodes", 3, "--replicas", 0)


def networks_of(containers: Containers) -> list[str]:
    found = containers.engine.api.networks(filters={"label": f"{CLUSTER}={containers.name}"})
    return [each["Id"] for each in found]


def first_line_of_either(both: list[subprocess.Popen[str]]) -> tuple[subprocess.Popen[str], str]:
    """The creator that is the first to say something, and what."""
    streams = {each.stderr: each for each in both if each.stderr is not None}
    ready, _, _ = select.select(list(streams), [], [], 30)
    assert ready
    return streams[ready[0]], ready[0].readline()


def elsewhere(containers: Containers, home: Path) -> Containers:
    """The same command for the same cluster with another home, as another user has: lock files differ."""
    home.mkdir()
    environment = {**containers.command.environment, "HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    return Containers(Command(home / "root", environment), containers.name, containers.engine)


@pytest.mark.slow
@pytest.mark.parametrize("homes", ["one home", "two homes"])
def test_of_two_creators_of_one_name_one_wins(engine: docker.DockerClient, tmp_path: Path, homes: str) -> None:
    for number in range(5):
        containers = make(engine, tmp_path / f"state{number}")
        second = elsewhere(containers, tmp_path / f"home{number}") if homes == "two homes" else containers
        try:
            with ExitStack() as stack:
                both = [stack.enter_context(each.popen(*ONE, "--progress", "json")) for each in (containers, second)]
                first, line = first_line_of_either(both)
                other = both[1 - both.index(first)]
                if json.loads(line)["event"] == "error":  # the loser was the first to speak
                    winner, loser, told = other, first, line
                    said = winner.communicate(timeout=60)[1]
                else:
                    # However late the other one comes, the winner must not be done before.
                    winner, loser = first, other
                    winner.send_signal(signal.SIGSTOP)
                    told = loser.communicate(timeout=60)[1]
                    winner.send_signal(signal.SIGCONT)
                    said = winner.communicate(timeout=60)[1]
                assert (winner.returncode, loser.wait(60)) == (0, 4), (said, told)
            assert "cluster.ready" in said
            (error,) = (json.loads(line) for line in told.splitlines())
            assert (error["code"], error["message"]) == ("busy", f'another command is at work on "{containers.name}"')
            assert len(networks_of(containers)) == 1
            assert [str(each.name) for each in containers.containers()] == [f"{containers.name}0"]
            assert containers("status", "--exit-code").returncode == 0
            containers.ok("delete")
            containers.assert_nothing_left()
        finally:
            remove(containers)


def test_a_creation_of_somebody_else_is_left_alone(containers: Containers, tmp_path: Path) -> None:
    other = elsewhere(containers, tmp_path / "home")
    with containers.popen(*THREE, "--progress", "json") as first:
        assert first.stderr is not None
        # Stopped half way, so that the other one cannot come too late.
        assert any(json.loads(line)["event"] == "node.answered" for line in first.stderr)
        first.send_signal(signal.SIGSTOP)
        try:
            before = [each.id for each in containers.containers()]
            second = other(*THREE)
            after = [each.id for each in containers.containers()]
        finally:
            first.send_signal(signal.SIGCONT)
        said = first.stderr.read()
        assert (second.returncode, first.wait(60)) == (4, 0), (second.stderr, said)
    assert "(busy)" in second.stderr
    assert before == after
    assert containers("status", "--exit-code").returncode == 0
    containers.ok("delete")
    containers.assert_nothing_left()


def test_what_a_killed_creator_left_is_finished_by_somebody_else(containers: Containers, tmp_path: Path) -> None:
    other = elsewhere(containers, tmp_path / "home")
    with containers.popen(*THREE, "--progress", "json") as first:
        assert first.stderr is not None
        assert any(json.loads(line)["event"] == "node.started" for line in first.stderr)
        first.kill()
    again = other.json(*THREE)
    assert (again["health"], again["created"]) == ("ok", False)
    containers.ok("delete")
    containers.assert_nothing_left()


# Three clusters side by side.


@pytest.fixture(scope="module")
def side_by_side(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Containers, ...]]:
    """Three clusters that were created at the same moment."""
    three = tuple(make(engine, tmp_path_factory.mktemp("side") / "state") for _ in range(3))
    try:
        with ExitStack() as stack:
            flags = (*THREE, "--set", "enable-debug-command=yes")
            creators = [stack.enter_context(each.popen(*flags)) for each in three]
            said = [each.communicate(timeout=90)[1] for each in creators]
        assert [each.returncode for each in creators] == [0, 0, 0], said
        yield three
    finally:
        for each in three:
            remove(each)


GROUP = pytest.mark.xdist_group("containers-side-by-side")


@GROUP
def test_clusters_side_by_side_do_not_meet(side_by_side: tuple[Containers, ...]) -> None:
    ports: set[int] = set()
    subnets = []
    for each in side_by_side:
        assert each("status", "--exit-code").returncode == 0
        mine = each.ports()
        ports.update(mine)
        network = each.engine.api.inspect_network(each.network_name)
        subnets.append(ip_network(network["IPAM"]["Config"][0]["Subnet"]))
        for port in mine:
            known = ask(port, "CLUSTER", "NODES")
            assert len(known.splitlines()) == 3
    assert len(ports) == 9
    assert not any(one.overlaps(other) for at, one in enumerate(subnets) for other in subnets[at + 1 :])


@GROUP
def test_the_list_has_them_all(side_by_side: tuple[Containers, ...]) -> None:
    first = side_by_side[0]
    records = {each["name"]: each for each in first.json("list")["clusters"]}
    for each in side_by_side:
        record = records[each.name]
        assert (record["runtime"], record["running"], record["orphan"]) == ("docker", 3, False)
        assert [node["name"] for node in record["nodes"]] == [f"{each.name}{index}" for index in range(3)]
    rows = {line.split()[0]: line.split()[1:4] for line in first.ok("list").splitlines()[1:]}
    assert [rows[each.name] for each in side_by_side] == [["docker", "3", "3"]] * 3
    # Without a word about where: every runtime is looked at.
    anywhere = Command(first.command.root, {"VALKEY_BOOTSTRAP_RUNTIME": "auto"})
    assert {each.name for each in side_by_side} <= set(anywhere.ok("list", "--quiet").split())
    processes = Command(first.command.root, {"VALKEY_BOOTSTRAP_RUNTIME": "process"})
    assert processes.ok("list", "--quiet") == ""


@GROUP
def test_status_by_name(side_by_side: tuple[Containers, ...]) -> None:
    asking = Command(side_by_side[0].command.root, {"VALKEY_BOOTSTRAP_RUNTIME": "auto"})
    for each in side_by_side:
        status = asking.json("status", "--name", each.name)
        assert (status["name"], status["runtime"], status["health"]) == (each.name, "docker", "ok")
        assert f'Cluster "{each.name}" is healthy: 3 of 3 nodes answered' in asking.ok("status", "--name", each.name)
    assert "clusters: " in asking.fails(2, "status")


@GROUP
def test_logs_by_name(side_by_side: tuple[Containers, ...], tmp_path: Path) -> None:
    one = side_by_side[1]
    text = one.ok("logs")
    fronts = {line.partition(" | ")[0] for line in text.splitlines()}
    assert fronts == {f"{one.name}{index}" for index in range(3)}
    expected = one.container(2).logs().decode()
    for ref in (f"{one.name}2", "2", str(one.nodes()[2]["addresses"]["host"]), one.nodes()[2]["id"][:8]):
        assert one.ok("logs", ref) == expected
    assert one.ok("logs", "2", "--tail", 2).splitlines() == expected.splitlines()[-2:]
    folder = tmp_path / "logs"
    one.ok("logs", "--export", folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        f"{one.name}{index}.log": one.container(index).logs().decode() for index in range(3)
    }
    assert "no node 'nobody'" in one.fails(2, "logs", "nobody")


@GROUP
def test_logs_are_followed(side_by_side: tuple[Containers, ...], tmp_path: Path) -> None:
    one = side_by_side[2]
    port = one.ports()[1]
    written = tmp_path / "followed"
    with written.open("w") as stdout, subprocess.Popen(
        one.command.argv("logs", "--follow", "--tail", 0), env=one.command.env(), stdout=stdout,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def followed() -> bool:
            # Until it has begun to follow, a line is not its business.
            ask(port, "DEBUG", "LOG", "mark of the test")
            return "mark of the test" in written.read_text()

        try:
            until(followed)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    marks = [line for line in written.read_text().splitlines() if "mark of the test" in line]
    assert {line.partition(" | ")[0] for line in marks} == {f"{one.name}1"}


@GROUP
def test_one_is_deleted_and_the_others_stay(side_by_side: tuple[Containers, ...], tmp_path: Path) -> None:
    # A fourth one, since the three are shared.
    fourth = make(side_by_side[0].engine, tmp_path / "state")
    try:
        fourth.ok(*ONE)
        asking = Command(tmp_path / "state", {"VALKEY_BOOTSTRAP_RUNTIME": "auto"})
        deleted: Any = json.loads(asking.ok("delete", "--name", fourth.name, "-o", "json"))["deleted"]
        assert deleted == [fourth.name]
        fourth.assert_nothing_left()
        assert f'There is no cluster "{fourth.name}"' in asking("delete", "--name", fourth.name).stderr
    finally:
        remove(fourth)
    for each in side_by_side:
        assert each("status", "--exit-code").returncode == 0
