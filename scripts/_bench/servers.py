"""Fresh servers, made and started as the product makes and starts them, but not formed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from bootstrap.concurrency import together
from bootstrap.errors import Taken
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import CONFIG_FILE, Plan, bind, build_plan, render_config
from bootstrap.planning.spec import ClusterSpec
from bootstrap.runtimes.daemons import LOG_FILE
from bootstrap.runtimes.process import ProcessRuntime
from scripts._bench.failures import Failure
from scripts._bench.link import Link
from scripts._bench.witness import Shape

NAME = "bench"
START_SECONDS = 60.0
PORT_TRIES = 5


@dataclass(frozen=True, slots=True)
class Servers:
    """Servers that run and are blank: a cluster of the process runtime's that is named and recorded.

    Args:
        root: the state root, a temporary folder.
        plan: with the servers' names and ports.
    """

    root: Path
    plan: Plan

    @property
    def addresses(self) -> list[Address]:
        """Where they are reached."""
        return [node.addresses.control for node in self.plan.nodes]

    def connect(self) -> list[Link]:
        """A connection to each; all of them answer PING.

        Raises:
            Failure: one does not within `START_SECONDS`.
        """
        links = [Link(address, within=START_SECONDS) for address in self.addresses]
        for link in links:
            if link.ask("PING")["PING"] != b"PONG":
                raise Failure(f"the server at {link.address} does not answer PING", "see its log")
        return links

    def count_in_logs(self, words: str) -> int:
        """Lines of all logs that have these words."""
        logs = [self.root / NAME / node.name / LOG_FILE for node in self.plan.nodes]
        return sum(words in line for log in logs for line in log.read_text(errors="replace").splitlines())


@contextmanager
def fresh_servers(shape: Shape, server: str) -> Iterator[Servers]:
    """Servers for the block, in a temporary folder; afterwards they are killed and the folder is gone.

    Args:
        shape: how many.
        server: path of the binary.
    """
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
        runtime = ProcessRuntime(folder, server=server)
        spec = ClusterSpec(
            name=NAME,
            nodes=shape.nodes,
            replicas=shape.replicas_each,
            runtime="process",
            base_port="auto",
            server=server,
            state_root=folder,
        )
        try:
            yield Servers(Path(folder), anyio.run(_start, spec, runtime))
        finally:
            anyio.run(runtime.remove, NAME)


async def _start(spec: ClusterSpec, runtime: ProcessRuntime) -> Plan:
    for _ in range(PORT_TRIES):
        try:
            return await _start_once(spec, runtime)
        except Taken:
            await runtime.remove(NAME)
    return await _start_once(spec, runtime)


async def _start_once(spec: ClusterSpec, runtime: ProcessRuntime) -> Plan:
    plan = build_plan(spec, await runtime.survey())
    plan = bind(plan, await runtime.prepare(plan))
    await together(partial(runtime.start, plan.name, node, {CONFIG_FILE: render_config(node)}) for node in plan.nodes)
    return plan
