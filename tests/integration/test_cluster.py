"""What a created cluster is, on each of the servers: it works, and it is left as a careful person would leave it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from redis.cluster import RedisCluster

from .conftest import VERSIONS, Command, ask, find_server, nodes_known_to, setting, until

pytestmark = pytest.mark.servers

ZONES = ("a", "b", "c")
TROUBLE = re.compile(
    r"Ignore stale message|configEpoch collision|possibly failing|as failing|FAIL message|state changed: fail|"
    r"Failover|Unhandled|assertion|ASSERT",
    re.IGNORECASE,
)
SETTINGS = {"cluster-node-timeout": "5000", "repl-diskless-sync-delay": "5", "repl-diskless-load": "disabled"}
OWN_FILES = ("cluster.json", "valkey.conf", "process.json", "server.log")


@dataclass(frozen=True, slots=True)
class Made:
    """A cluster of six nodes and what its creation said."""

    name: str
    version: str
    folder: Path
    nodes: list[dict[str, Any]]
    processes: list[psutil.Process]
    creator: int
    text: str

    @property
    def ports(self) -> list[int]:
        return [int(node["addresses"]["host"].rpartition(":")[2]) for node in self.nodes]

    def of(self, role: str) -> list[int]:
        return [port for port, node in zip(self.ports, self.nodes, strict=True) if node["role"] == role]


@pytest.fixture(scope="module", params=VERSIONS)
def made(request: pytest.FixtureRequest, shared_command: Command) -> Iterator[Made]:
    path, name = find_server(request.param), request.param.replace(".", "-") + "x"
    create = ("--nodes", 6, "--replicas", 1, "--zones", ",".join(ZONES), "--base-port", "auto", "--name", name)
    with subprocess.Popen(
        shared_command.argv(*create, "--server", path),
        env=shared_command.env(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        text, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    status = shared_command.json("status", "--name", name)
    folder = shared_command.root / name
    below = [each for each in shared_command.processes() if each.cwd().startswith(f"{folder}/")]
    yield Made(name, request.param, folder, status["nodes"], below, process.pid, text)
    shared_command.ok("delete", "--name", name)


def test_ten_thousand_keys_are_written_and_read(made: Made) -> None:
    keys = [f"key:{number}" for number in range(10_000)]
    client = RedisCluster(host="127.0.0.1", port=made.ports[0], decode_responses=True)
    try:
        for at in range(0, len(keys), 2000):
            part = keys[at : at + 2000]
            writes = client.pipeline()  # type: ignore[no-untyped-call]
            reads = client.pipeline()  # type: ignore[no-untyped-call]
            for key in part:
                writes.set(key, f"value of {key}")
                reads.get(key)
            assert writes.execute() == [True] * len(part)
            assert reads.execute() == [f"value of {key}" for key in part]
    finally:
        client.close()
    counts = [ask(port, "DBSIZE") for port in made.of("primary")]
    # Other tests of this module leave a key or two.
    assert sum(counts) >= len(keys)
    assert min(counts) > len(keys) / 4, counts


def test_valkey_cli_follows_a_redirection(made: Made, valkey_cli: str) -> None:
    def cli(*words: str) -> str:
        done = subprocess.run(
            [valkey_cli, "-p", str(made.ports[0]), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    # Slot 12539, the third primary's, asked for at the first one.
    assert "MOVED 12539" in cli("set", "key", "there")
    assert cli("-c", "set", "key", "there") == "OK"
    assert cli("-c", "get", "key") == "there"


def test_a_replica_serves_reads(made: Made) -> None:
    node = next(node for node in made.nodes if node["role"] == "replica" and node["primary"] == made.nodes[2]["name"])
    assert ask(made.ports[2], "SET", "key", "here") is True
    with redis.Redis(host="127.0.0.1", port=made.ports[node["index"]], decode_responses=True) as replica:
        with pytest.raises(redis.ResponseError, match="12539"):
            replica.get("key")
        with replica.client() as connection:
            assert connection.execute_command("READONLY")
            assert until(lambda: connection.get("key") == "here")


def test_the_printed_replica_line_reads(made: Made, valkey_cli: str) -> None:
    line = next(line for line in made.text.splitlines() if line.startswith("replica "))
    path = f"{Path(valkey_cli).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        line.removeprefix("replica "), shell=True, capture_output=True, text=True, timeout=10, env={"PATH": path},
        check=True,
    )  # fmt: skip
    assert "MOVED" not in done.stdout
    assert done.stdout.splitlines()[0] == "OK"


def test_valkey_cli_finds_nothing_wrong(made: Made, valkey_cli: str) -> None:
    done = subprocess.run(
        [valkey_cli, "--cluster", "check", f"127.0.0.1:{made.ports[0]}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "[OK] All nodes agree" in done.stdout
    assert "[OK] All 16384 slots covered" in done.stdout
    assert "[ERR]" not in done.stdout
    assert "[WARNING]" not in done.stdout


def test_every_node_has_its_configured_settings(made: Made) -> None:
    for port in made.ports:
        assert {name: setting(port, name) for name in SETTINGS} == SETTINGS
        assert setting(port, "cluster-ping-interval") == (None if made.version == "redis-7.0" else "0")


def test_zones_are_set_where_the_server_knows_them(made: Made) -> None:
    expected = [None if made.version == "redis-7.0" else ZONES[index % 3] for index in range(6)]
    assert [setting(port, "availability-zone") for port in made.ports] == expected
    assert [node["zone"] for node in made.nodes] == [ZONES[index % 3] for index in range(6)]
    zone_of = {node["name"]: node["zone"] for node in made.nodes}
    apart = [node["zone"] != zone_of[node["primary"]] for node in made.nodes if node["role"] == "replica"]
    assert apart == [True] * 3


def test_config_epochs_are_distinct_in_every_view(made: Made) -> None:
    for port in made.ports:
        epochs = [line.epoch for line in nodes_known_to(port).values() if "master" in line.flags]
        assert len(epochs) == 3
        assert len(set(epochs)) == 3, epochs
        assert min(epochs) > 0


def test_logs_tell_of_no_trouble(made: Made) -> None:
    for node in made.nodes:
        log = (made.folder / node["name"] / "server.log").read_text()
        assert "Ready to accept connections" in log
        assert [line for line in log.splitlines() if TROUBLE.search(line)] == []


def test_servers_outlive_the_command(made: Made) -> None:
    assert not psutil.pid_exists(made.creator)
    assert len(made.processes) == 6
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    for process in made.processes:
        assert process.is_running()
        assert process.pid not in ours
        # A session of its own: the terminal's Ctrl-C and hang-up do not reach it.
        assert os.getsid(process.pid) == process.pid


def test_files_are_private(made: Made) -> None:
    for folder in (made.folder.parent, made.folder, *(made.folder / node["name"] for node in made.nodes)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    own = [path for path in made.folder.rglob("*") if path.name in OWN_FILES]
    assert len(own) == 1 + 3 * 6
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in own} == dict.fromkeys(OWN_FILES, "0o600")


def test_only_the_loopback_interface_is_listened_on(made: Made) -> None:
    listening = [
        connection.laddr
        for process in made.processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert sorted(address.port for address in listening) == [*made.ports, *(port + 10000 for port in made.ports)]
