"""A cluster of ours whose shape tests change: the command, what each node is, and what the nodes say themselves."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from .conftest import Command, ask, await_end, nodes_known_to, setting, until

QUIET = {"cluster-ping-interval": "0", "repl-diskless-sync-delay": "5"}
"""What servers have outside the window."""

Node = dict[str, Any]
When = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Shape:
    """One cluster by name, under a command's state root."""

    command: Command
    name: str = "valkey"

    def create(self, *args: str | int) -> Shape:
        """Make it, on free ports."""
        self.command.ok("create", *args, "--name", self.name, "--base-port", "auto")
        return self

    def __call__(self, verb: str, *args: str | float) -> subprocess.CompletedProcess[str]:
        """A verb on it."""
        return self.command(verb, "--name", self.name, *args, timeout=100)

    def ok(self, verb: str, *args: str | float) -> subprocess.CompletedProcess[str]:
        """A verb that ends with 0."""
        done = self(verb, *args)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, verb: str, *args: str | float) -> Any:
        """What it says, as data."""
        return json.loads(self.ok(verb, *args, "--output", "json").stdout)

    def fails(self, code: int, what: str, verb: str, *args: str | float) -> str:
        """Insist on an exit code and an error's code, and give what was said."""
        told = self.command.fails(code, verb, "--name", self.name, *args)
        assert f"({what})" in told, told
        return told

    def disturbed(
        self, verb: str, *args: str | float, when: When, then: Callable[[subprocess.Popen[str]], object]
    ) -> tuple[int, list[dict[str, Any]]]:
        """Run a verb, and do something to it at the first event that fits; its exit code, and its events."""
        argv = self.command.argv(verb, "--name", self.name, *args, "--progress", "json")
        told = []
        with subprocess.Popen(
            argv, env=self.command.env(), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            done = False
            for line in process.stderr:
                assert line.startswith("{"), line + process.stderr.read()
                told.append(json.loads(line))
                if not done and when(told[-1]):
                    done = True
                    then(process)
            process.wait(60)
        return process.returncode, told

    def nodes(self) -> dict[str, Node]:
        """Name -> what it says now."""
        return {node["name"]: node for node in self.json("status")["nodes"]}

    def port(self, name: str) -> int:
        """Its port."""
        (record,) = [each for each in self.command.json("list")["clusters"] if each["name"] == self.name]
        (node,) = [node for node in record["nodes"] if node["name"] == name]
        return int(node["addresses"]["host"].rpartition(":")[2])

    def ports(self) -> list[int]:
        """Of all nodes."""
        return [int(node["addresses"]["host"].rpartition(":")[2]) for node in self.nodes().values()]

    def ask(self, name: str, *words: str | int) -> Any:
        """A command to one node."""
        return ask(self.port(name), *words)

    def fill(self, number: int = 300) -> None:
        """Some keys, by a client of the cluster."""
        with self.client() as client:
            for index in range(number):
                assert client.set(f"key{index}", index)

    def client(self) -> Any:
        """A client of the cluster."""
        import redis

        return redis.RedisCluster(port=self.ports()[0], host="127.0.0.1")

    def kept(self, number: int = 300) -> bool:
        """Whether all keys are there."""
        with self.client() as client:
            return [client.get(f"key{index}") for index in range(number)] == [b"%d" % i for i in range(number)]

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.command.root / self.name

    def process(self, name: str) -> psutil.Process:
        """A node's server."""
        (found,) = [each for each in self.command.processes() if each.cwd() == str(self.folder / name)]
        return found

    def kill(self, *names: str, signum: int = signal.SIGKILL) -> None:
        """End servers; all unless some are named."""
        below = str(self.folder)
        victims = (
            [self.process(name) for name in names]
            if names
            else [each for each in self.command.processes() if each.cwd().startswith(below + "/")]
        )
        for victim in victims:
            victim.send_signal(signum)
        await_end(victims)

    def record(self) -> dict[str, Any]:
        """What is recorded of it."""
        found: dict[str, Any] = json.loads((self.folder / "cluster.json").read_text())
        return found

    def assert_well(self) -> dict[str, Node]:
        """Healthy, known alike by all, nothing of the change left anywhere; its nodes."""
        document = self.json("status")
        assert document["health"] == "ok", document["doubts"]
        found: dict[str, Node] = {node["name"]: node for node in document["nodes"]}
        record = self.record()
        assert record["underway"] is None
        assert {node["name"] for node in record["nodes"]} == set(found)
        folders = {path.name for path in self.folder.iterdir() if path.is_dir() and path.name.startswith(self.name)}
        assert folders == set(found)
        below = f"{self.folder}/"
        assert len([each for each in self.command.processes() if each.cwd().startswith(below)]) == len(found)
        for node in found.values():
            port = int(node["addresses"]["host"].rpartition(":")[2])
            known = nodes_known_to(port)
            assert set(known) == {each["id"] for each in found.values()}, "somebody is known that is no member"
            assert not [slot for line in known.values() for slot in line.slots if slot.startswith("[")]
            for key, value in QUIET.items():
                assert setting(port, key) in (value, None), (node["name"], key)
        return found


def slots(node: Node) -> int:
    """How many a node has."""
    return sum(last - first + 1 for first, last in node["slots"])


def roles(nodes: Mapping[str, Node]) -> dict[str, str | int]:
    """Name -> how many slots, or whom it follows."""
    return {name: node["primary"] or slots(node) for name, node in nodes.items()}


def replicas(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """Primary -> who follows it."""
    return {
        name: [each for each, node in nodes.items() if node["primary"] == name]
        for name, node in nodes.items()
        if node["primary"] is None
    }


def events(stderr: str) -> list[dict[str, Any]]:
    """The lines of ``--progress json``."""
    return [json.loads(line) for line in stderr.splitlines()]


def phases(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """The titles of finished phases."""
    return [str(event["title"]) for event in told if event["event"] == "phase.finished"]


def await_health(shape: Shape, *, ok: bool = True) -> None:
    """Wait until a cluster is well, or is not."""
    until(lambda: (shape("status", "--exit-code").returncode == 0) == ok, 30)


def begins(phase: str, done: int = 0) -> When:
    """When a phase begins, or has come so far."""

    def fits(event: Mapping[str, Any]) -> bool:
        if event.get("phase") != phase:
            return False
        started = event["event"] == "phase.started" and not done
        return started or (event["event"] == "phase.progressed" and event["done"] >= done > 0)

    return fits


def nth(number: int) -> When:
    """The event of that number, counted from 1."""
    left = iter(range(number - 1, -1, -1))
    return lambda _: next(left, -1) == 0
