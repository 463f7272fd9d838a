"""The lines at the end of a creation, run as they are printed, and the ports that a cluster takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from .conftest import free_block
from .containers import PROJECT, STRATEGIES, Containers, announced_by, at_terminal, make, remove, strategy_params

pytestmark = [pytest.mark.servers, pytest.mark.docker]

HOST_ONLY = ("client-address", "same-port")
LABELS = ["python", "shell", "exec", "network", "replica", "status", "delete"]


@dataclass(frozen=True, slots=True)
class Printed:
    """What the creation of a cluster printed last, and a key in it."""

    containers: Containers
    strategy: str
    version: str
    lines: dict[str, str]
    env: dict[str, str]

    def shell(self, label: str, lines: str = "") -> str:
        """What a printed line prints in a shell."""
        done = subprocess.run(
            self.lines[label], shell=True, input=lines, capture_output=True, text=True, timeout=60, env=self.env,
            cwd=PROJECT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (self.lines[label], done.stdout, done.stderr)
        return done.stdout

    def talk(self, label: str) -> str:
        """What a printed line for a terminal prints, when `GET key` and `exit` are typed."""
        typed = (("> ", "GET key\r"), ('"there"', ""), ("> ", "exit\r"))
        return at_terminal(self.lines[label], *typed, env=self.env)


PARAMS = [
    *strategy_params((*STRATEGIES, *HOST_ONLY), group="printed"),
    *strategy_params(["gateway"], ["redis-7.0"], group="printed"),
]


@pytest.fixture(scope="module", params=PARAMS)
def printed(
    request: pytest.FixtureRequest,
    engine: docker.DockerClient,
    tmp_path_factory: pytest.TempPathFactory,
    valkey_cli: str,
) -> Iterator[Printed]:
    strategy, version = request.param
    folder = tmp_path_factory.mktemp("printed")
    containers = make(engine, folder / "state", version)
    try:
        text = containers.ok("--nodes", 6, *announced_by(strategy, request).flags)
        _, _, last = text.partition("\n\n")
        lines = dict(line.split(maxsplit=1) for line in last.splitlines())
        # A person's shell: nothing of ours is set, and the client of Redis is a copy of Valkey's.
        programs = folder / "bin"
        programs.mkdir()
        for name in ("valkey-cli", "redis-cli"):
            (programs / name).symlink_to(valkey_cli)
        path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VALKEY_BOOTSTRAP")}
        env = {**clean, "PATH": os.pathsep.join(path), "TERM": "xterm", "HOME": str(folder), "PYTHONPATH": str(PROJECT)}
        found = Printed(containers, strategy, version, lines, env)
        assert found.shell("shell", "SET key there\n").splitlines()[-1] == "OK"
        yield found
        # The last line, run last.
        found.shell("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


def test_all_lines_are_there(printed: Printed) -> None:
    wanted = [label for label in LABELS if label != "network" or printed.strategy not in HOST_ONLY]
    assert list(printed.lines) == wanted


def test_the_python_line(printed: Printed) -> None:
    line = f"import redis; client = {printed.lines['python']}; print(client.get('key')); client.close()"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "b'there'\n"), done.stderr


def test_the_shell_line(printed: Printed) -> None:
    # Keys of every shard, so that redirections are followed, too.
    told = printed.shell("shell", "SET {06S} 1\nSET key there\nSET b 2\nGET {06S}\nGET key\nGET b\n")
    assert [line for line in told.splitlines() if not line.startswith("-> ")] == ["OK"] * 3 + ["1", "there", "2"]
    assert "-> Redirected" in told


def test_the_exec_line(printed: Printed) -> None:
    if printed.strategy not in HOST_ONLY:
        assert "-> Redirected" in printed.talk("exec")
        return
    # Redirections are not for clients in there: it answers for its own keys, and names the place of others.
    typed = (("> ", "SET {06S} 1\r"), ("OK", ""), ("> ", "GET key\r"), ("MOVED 12539", ""), ("> ", "exit\r"))
    told = at_terminal(printed.lines["exec"], *typed, env=printed.env)
    assert "-> Redirected" not in told


def test_the_network_line(printed: Printed) -> None:
    if printed.strategy in HOST_ONLY:
        assert "network" not in printed.lines
        return
    assert "-> Redirected" in printed.talk("network")
    # --rm: the client's container is gone from the network.
    api = printed.containers.engine.api
    guests = api.inspect_network(printed.containers.network_name)["Containers"].values()
    assert sorted(each["Name"] for each in guests) == [str(each.name) for each in printed.containers.containers()]


def test_the_replica_line(printed: Printed) -> None:
    assert printed.shell("replica").split() == ["OK", "there"]


def test_the_status_line(printed: Printed) -> None:
    assert f'Cluster "{printed.containers.name}" is healthy: 6 of 6 nodes answered' in printed.shell("status")


def test_the_client_is_named_after_the_server(printed: Printed) -> None:
    name = "redis-cli" if printed.version == "redis-7.0" else "valkey-cli"
    for label in ("shell", "exec", "replica"):
        assert re.search(rf"(^|[ |]){name} ", printed.lines[label])


def test_the_table_of_the_guide(containers: Containers) -> None:
    base = free_block(4)
    text = containers.ok("--nodes", 4, "--replicas", 1, "--base-port", base)
    rows = [line.split() for line in text.partition("\n\n")[0].splitlines()[1:]]
    name = containers.name
    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
        (f"{name}0", "primary", f"127.0.0.1:{base}", "0-8191"),
        (f"{name}1", "primary", f"127.0.0.1:{base + 1}", "8192-16383"),
        (f"{name}2", "replica", f"127.0.0.1:{base + 2}", f"{name}1"),
        (f"{name}3", "replica", f"127.0.0.1:{base + 3}", f"{name}0"),
    ]
    addresses = [
        each.attrs["NetworkSettings"]["Networks"][containers.network_name]["IPAddress"]
        for each in containers.containers()
    ]
    assert [row[3] for row in rows] == [f"{address}:{base + index}" for index, address in enumerate(addresses)]
    containers.ok("delete")
    containers.assert_nothing_left()
