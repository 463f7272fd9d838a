"""One measurement: servers, a tool that forms them, and the witness."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from scripts._bench.child import Child
from scripts._bench.link import Link
from scripts._bench.servers import NAME, Servers, fresh_servers
from scripts._bench.witness import Clock, Shape, Witness, poll_seconds

Case = Literal["up", "start"]
CASES: tuple[Case, ...] = get_args(Case)
Tool = Literal["ours", "valkey-cli"]
TOOLS: tuple[Tool, ...] = get_args(Tool)

LIMIT = 120.0
"""Seconds after which a run is given up."""
LIMIT_AFTER_FAILURE = 15.0
"""Seconds that the witness goes on for a tool that has failed."""
LOG_WORDS = ("Ignore stale message", "possibly failing", "FAIL message", "as failing")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for all runs of a series.

    Args:
        server: path of the server.
        cli: path of valkey-cli.
        up_seconds: how long servers have answered before a tool begins, in the case ``up``.
    """

    server: str
    cli: str
    up_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """What came out. Seconds count from the moment the tool was spawned; None is what did not happen.

    Args:
        case: whether the servers had been up.
        nodes: how many.
        tool: what formed them.
        clocks: see `scripts._bench.witness`.
        ready: the last of the clocks.
        exit: when the tool ended.
        exit_code: None for a tool that was killed after `LIMIT`.
        cpu_seconds: of the tool.
        peak_kib: the most memory of the tool.
        client_bytes: what the tool exchanged with all servers, both ways (see `Link.client_bytes`).
        flagged: nodes that showed another one as failing, or possibly failing, when they were asked.
        fell_back: how often a clock had stopped and did not hold when everything was asked once more.
        left: by clock, nodes that were not right at the end.
        logs: lines of the servers' logs with words that mean trouble.
        answered: seconds between the last server's first answer and the spawn.
        load: the machine's load average over a minute, before.
        witness_cpu_seconds: of the witness, meanwhile.
        complaint: of a tool that failed, in one line.
    """

    case: Case
    nodes: int
    tool: Tool
    clocks: Mapping[Clock, float | None]
    ready: float | None
    exit: float | None
    exit_code: int | None
    cpu_seconds: float
    peak_kib: int
    client_bytes: int
    flagged: int
    fell_back: Mapping[Clock, int]
    left: Mapping[Clock, int]
    logs: Mapping[str, int]
    answered: float
    load: float
    witness_cpu_seconds: float
    complaint: str = ""

    @property
    def good(self) -> bool:
        """The tool succeeded, and the witness agrees."""
        return self.exit_code == 0 and self.ready is not None

    @property
    def fail_flags(self) -> bool:
        """Whether a node was taken for failing, as the witness or a log says."""
        return bool(self.flagged or sum(self.logs.values()) - self.logs.get("Ignore stale message", 0))


def measure(case: Case, nodes: int, tool: Tool, setting: Setting) -> Run:
    """One run on fresh servers."""
    shape = Shape.of(nodes)
    load = os.getloadavg()[0]
    with fresh_servers(shape, setting.server) as servers, tempfile.TemporaryDirectory() as folder:
        links = servers.connect()
        answered = time.monotonic()
        try:
            if case == "up":
                time.sleep(setting.up_seconds)
            before = sum(link.client_bytes() for link in links)
            used = time.process_time()
            child = Child(command(tool, servers, shape, setting), environment(), Path(folder))
            witness = Witness(links, shape, child.began)
            try:
                watch(child, witness, shape)
                code = child.code
            finally:
                child.stop()
            return Run(
                case=case,
                nodes=nodes,
                tool=tool,
                clocks=witness.clocks,
                ready=witness.ready,
                exit=round(child.ended - child.began, 4) if code is not None and child.ended else None,
                exit_code=code,
                cpu_seconds=child.cpu_seconds,
                peak_kib=child.peak_kib,
                client_bytes=sum(link.client_bytes() for link in links) - before,
                flagged=len(witness.flagged),
                fell_back=dict(witness.fell_back),
                left=witness.left,
                logs={words: servers.count_in_logs(words) for words in LOG_WORDS},
                answered=round(child.began - answered, 3),
                load=round(load, 2),
                witness_cpu_seconds=round(time.process_time() - used, 3),
                complaint=child.complaint() if code != 0 else "",
            )
        finally:
            close(links)


def watch(child: Child, witness: Witness, shape: Shape) -> None:
    """Let the witness look until the tool has ended and everything is right and stays so, or the time is up."""
    end = child.began + LIMIT
    while time.monotonic() < end:
        looked = time.monotonic()
        if witness.left:
            witness.look()
        if child.ended is not None:
            if not witness.left and witness.look_again():
                return
            if child.code != 0:
                end = min(end, child.ended + LIMIT_AFTER_FAILURE)
        time.sleep(max(0.002, poll_seconds(shape.nodes) - (time.monotonic() - looked)))


def command(tool: Tool, servers: Servers, shape: Shape, setting: Setting) -> Sequence[str]:
    """The command line that forms running servers."""
    if tool == "valkey-cli":
        addresses = [str(address) for address in servers.addresses]
        replicas = ("--cluster-replicas", str(shape.replicas_each))
        return [setting.cli, "--cluster", "create", *addresses, *replicas, "--cluster-yes"]
    return [
        *product("create", "--runtime", "process", "--state-root", str(servers.root), "--name", NAME),
        *("--nodes", str(shape.nodes), "--replicas", str(shape.replicas_each)),
        *("--timeout", f"{LIMIT:g}", "--output", "json", "--progress", "quiet"),
    ]


def product(*arguments: str) -> list[str]:
    """A command line of this project."""
    return [sys.executable, "-P", "-m", "bootstrap", *arguments]


def environment() -> dict[str, str]:
    """This process's, without what the product reads."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VALKEY_BOOTSTRAP")}


def close(links: Sequence[Link]) -> None:
    """Close all connections."""
    for link in links:
        link.close()
