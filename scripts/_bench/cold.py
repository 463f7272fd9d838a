"""The whole command from nothing: how much longer it takes than the servers themselves make it take."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import psutil

from bootstrap.planning.addressing import Address
from bootstrap.runtimes.daemons import PROCESS_FILE
from scripts._bench import machine
from scripts._bench.child import Child
from scripts._bench.failures import Failure
from scripts._bench.formation import LIMIT, close, environment, product, watch
from scripts._bench.link import Link
from scripts._bench.results import FLOORS, spread
from scripts._bench.servers import START_SECONDS
from scripts._bench.witness import Shape, Witness

Kind = Literal["process", "docker"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Cold:
    """One run. Seconds count from the moment the command was spawned.

    Args:
        last_start: when the last server was started: its process, or in a container its first word.
        ready: the last clock of the witness.
        exit: when the command ended.
    """

    last_start: float
    ready: float
    exit: float

    @property
    def floor(self) -> float:
        """When the last server can call itself ok at the earliest."""
        return self.last_start + FLOORS["start"]


@dataclass(frozen=True, slots=True)
class Command:
    """How the product is called.

    Args:
        kind: which runtime.
        shape: what is created.
        server: the binary of local processes.
        root: their state root.
    """

    kind: Kind
    shape: Shape
    server: str
    root: Path

    @property
    def name(self) -> str:
        """The cluster's."""
        return f"bench-{os.getpid()}"

    @property
    def create(self) -> list[str]:
        """The command line that is measured."""
        shape = ("--nodes", str(self.shape.nodes), "--replicas", str(self.shape.replicas_each))
        where = ("--server", self.server) if self.kind == "process" else ("--pull", "never")
        look = ("--base-port", "auto", "--output", "json", "--progress", "json")
        return [*product("create"), *self._which, *shape, *where, *look]

    @property
    def delete(self) -> list[str]:
        """The one that removes what the other one made."""
        return [*product("delete", "--quiet"), *self._which]

    @property
    def _which(self) -> list[str]:
        return ["--runtime", self.kind, "--state-root", str(self.root), "--name", self.name]


def measure_cold(kind: Kind, shape: Shape, server: str) -> Cold:
    """One run of the whole command.

    Raises:
        Failure: it did not make a cluster that is ready.
    """
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
        command = Command(kind, shape, server, Path(folder) / "state")
        child = Child(command.create, environment(), Path(folder))
        try:
            return _follow(child, command)
        finally:
            child.stop()
            subprocess.run(command.delete, env=environment(), capture_output=True, timeout=LIMIT, check=False)


def _follow(child: Child, command: Command) -> Cold:
    links = [Link(address, within=START_SECONDS) for address in _addresses(child, command.shape.nodes)]
    witness = Witness(links, command.shape, child.began)
    try:
        watch(child, witness, command.shape)
    finally:
        close(links)
    if child.code != 0 or child.ended is None or witness.ready is None:
        raise _not_made(child)
    last_start = _last_container(command, child) if command.kind == "docker" else _last_process(command, child)
    return Cold(last_start, witness.ready, child.ended - child.began)


def _addresses(child: Child, nodes: int) -> list[Address]:
    """Where the servers are, from the command's own events; awaited until all of them answer it."""
    end = child.began + LIMIT
    while time.monotonic() < end:
        events = [json.loads(line) for line in child.stderr.read_text().splitlines(keepends=True) if line[-1:] == "\n"]
        found = [event["address"] for event in events if event["event"] == "node.answered"]
        if len(found) == nodes:
            return [Address.parse(address) for address in found]
        if child.ended is not None:
            break
        time.sleep(0.02)
    raise _not_made(child)


def _not_made(child: Child) -> Failure:
    return Failure(f"the command made no cluster: {child.complaint()}", "run it by itself")


def _last_process(command: Command, child: Child) -> float:
    # All start times are the system's, counted by one clock; its ticks are a hundredth of a second.
    files = (command.root / command.name).glob(f"*/{PROCESS_FILE}")
    servers = [psutil.Process(int(json.loads(file.read_text())["pid"])) for file in files]
    return max(server.create_time() for server in servers) - child.created


def _last_container(command: Command, child: Child) -> float:
    import docker

    from bootstrap.runtimes.engine.labels import CLUSTER

    engine = docker.from_env()
    try:
        found = engine.containers.list(filters={"label": f"{CLUSTER}={command.name}"})
        # The first line of the log, which a server writes at once, as the engine dates it. What the engine calls the
        # container's start is some hundredths of a second later.
        first = [container.logs(timestamps=True).partition(b" ")[0].decode() for container in found]
        return max(map(_timestamp, first)) - child.began_at
    finally:
        engine.close()


def _timestamp(text: str) -> float:
    """Seconds since the epoch; Docker writes nanoseconds, which Python 3.11 reads to the microsecond."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text)).timestamp()


def missing(kind: Kind, image: str | None = None) -> str:
    """Why a runtime cannot be measured here; "" if it can."""
    if kind == "process":
        return ""
    import docker
    from docker.errors import DockerException, ImageNotFound

    from bootstrap.planning.spec import DEFAULT_IMAGE

    try:
        engine = docker.from_env(timeout=5)
    except DockerException:
        return "no engine answers"
    try:
        engine.images.get(image := image or DEFAULT_IMAGE)
    except ImageNotFound:
        return f"the engine has no {image}; scripts/engine image gets it"
    except DockerException:
        return "no engine answers"
    finally:
        engine.close()
    return ""


def run_cold(kinds: Sequence[Kind], nodes: int, runs: int, server: str, tell: Callable[[str], None]) -> list[str]:
    """Measure the runtimes that are there; the lines of the table, all in seconds."""
    lines = [f"{'runtime':8} {'last start':20} {'floor':20} {'ready':20} {'exit':20} exit/floor"]
    machine.allow_files(nodes)
    for kind in kinds:
        if reason := missing(kind):
            tell(f"{kind}: not measured: {reason}")
            continue
        found = []
        for turn in range(runs):
            machine.await_room(nodes, tell)
            found.append(run := measure_cold(kind, Shape.of(nodes), server))
            tell(f"{kind:8} {turn + 1}/{runs}  floor {run.floor:.2f} s, ready {run.ready:.2f} s, exit {run.exit:.2f} s")
        columns = [[run.last_start, run.floor, run.ready, run.exit] for run in found]
        shown = " ".join(f"{spread(column)!s:20}" for column in zip(*columns, strict=True))
        ratio = spread(run.exit / run.floor for run in found)
        lines.append(f"{kind:8} {shown} {ratio}")
    return lines
