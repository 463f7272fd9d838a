"""The API inside programs of other people: another event loop, other tasks, other clusters, other processes."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

import bootstrap

from .conftest import Command

pytestmark = pytest.mark.servers

PROJECT = Path(__file__).parents[2]
LOOPS = ("asyncio", "uvloop")


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip("uvloop").new_event_loop
    return made


async def use(root: str, nodes: int = 2) -> bootstrap.Status:
    """All that a program does with a cluster."""
    async with bootstrap.cluster(nodes=nodes, replicas=0, runtime="process", state_root=root) as cluster:
        async with cluster.client(decode_responses=True) as client:
            for number in range(10):
                await client.set(f"key{number}", cluster.name)
                assert await client.get(f"key{number}") == cluster.name
        assert await cluster.logs(0)
        return await cluster.wait(timeout=10)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_application_goes_on_while_clusters_come_and_go(command: Command, loop: str) -> None:
    """Two at once, beside a task that is never kept waiting; nothing blocks the loop."""
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def application() -> list[bootstrap.Status]:
        ticking = asyncio.create_task(tick())
        try:
            return list(await asyncio.gather(use(str(command.root)), use(str(command.root))))
        finally:
            ticking.cancel()

    with blockbuster_ctx(), asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        assert type(runner.get_loop()).__module__.partition(".")[0] == loop
        found = runner.run(application())
    assert [status.healthy for status in found] == [True, True]
    assert found[0].name != found[1].name
    addresses = [node.addresses.host for status in found for node in status.nodes]
    assert len(set(addresses)) == 4
    # There is time for 200; few would say that the loop stood still.
    assert len(ticks) > 20
    command.assert_nothing_left()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_application_leaves_nothing(command: Command, loop: str) -> None:
    """The loop's own cancellation, not anyio's: of a task that is in the middle of a creation."""
    begun = asyncio.Event()

    def observe(event: bootstrap.Event) -> None:
        if event.name == "node.answered":
            begun.set()

    async def create() -> None:
        root = str(command.root)
        async with bootstrap.cluster(nodes=3, replicas=0, runtime="process", state_root=root, observer=observe):
            await asyncio.Event().wait()

    async def application() -> None:
        creating = asyncio.create_task(create())
        await begun.wait()
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating

    run(application(), loop)
    command.assert_nothing_left()


def run(work: Coroutine[Any, Any, None], loop: str) -> None:
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(work)


PROGRAM = """
import asyncio, json, sys
import bootstrap

async def main():
    async with bootstrap.cluster(nodes=3, replicas=0, runtime="process", state_root=sys.argv[1]) as cluster:
        print(json.dumps([cluster.name, [str(each) for each in cluster.endpoints()]]), flush=True)
        sys.stdin.readline()
        print(json.dumps((await cluster.status()).healthy))

asyncio.run(main())
"""


def test_two_programs_at_once(command: Command) -> None:
    """Both have a cluster at the same time, with other names and other ports, and each removes its own."""
    argv = [sys.executable, "-c", PROGRAM, str(command.root)]
    programs = [
        subprocess.Popen(argv, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        told = [json.loads(program.stdout.readline()) for program in programs if program.stdout]
        assert len({name for name, _ in told}) == 2
        assert len({address for _, addresses in told for address in addresses}) == 6
        assert [program.communicate("\n", timeout=30)[0] for program in programs] == ["true\n", "true\n"]
    finally:
        for program in programs:
            program.kill()
            program.wait(10)
    command.assert_nothing_left()


async def test_servers_hold_nothing_of_the_program_that_started_them(command: Command) -> None:
    """A web server's reloader makes its socket inheritable; a server that held it would keep the port for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        port = listening.getsockname()[1]
        cluster = await bootstrap.create(nodes=1, replicas=0, runtime="process", state_root=str(command.root))
    with socket.create_server(("127.0.0.1", port)):
        await cluster.delete()
    command.assert_nothing_left()
