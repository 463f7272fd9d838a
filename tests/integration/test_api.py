"""The library as programs use it: on the event loop, silent, and with nothing left behind."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

import bootstrap
from bootstrap import Cluster, Event, Timeline

from .conftest import Command, ask, nodes_known_to

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(command: Command, monkeypatch: pytest.MonkeyPatch) -> str:
    """A state root, as the library takes it; logs of failed creations are kept beside it."""
    monkeypatch.setattr(tempfile, "tempdir", str(command.root.parent))
    return str(command.root)


@pytest.fixture
def blockbuster() -> Iterator[BlockBuster]:
    """A blocking call on the event loop is an error."""
    with blockbuster_ctx() as found:
        yield found


@pytest.fixture
async def running(root: str) -> AsyncIterator[Cluster]:
    async with bootstrap.cluster(nodes=3, replicas=0, runtime="process", state_root=root) as found:
        yield found


# The context manager.


async def test_the_defaults(command: Command, root: str, blockbuster: BlockBuster) -> None:
    seen: list[Event] = []
    async with bootstrap.cluster(runtime="process", state_root=root, observer=seen.append) as cluster:
        assert len(cluster.nodes) == 6
        assert cluster.name != "valkey"
        assert cluster.plan is not None
        assert cluster.plan.name == cluster.name
        assert len(cluster.plan.replicas) == 3
        status = await cluster.status()
        assert status.healthy
        assert [node.role for node in status.nodes] == ["primary"] * 3 + ["replica"] * 3
        first = cluster.endpoints()[0]
        assert first.port != 6379
        assert cluster.connection_kwargs() == {"host": "127.0.0.1", "port": first.port}
        assert cluster.endpoints("network") == cluster.endpoints()
        client = cluster.client(decode_responses=True)
        try:
            for number in range(20):
                assert await client.set(f"key{number}", number)
                assert await client.get(f"key{number}") == str(number)
        finally:
            await client.aclose()
        for ref in (4, "4", cluster.nodes[4].name, str(cluster.nodes[4].addresses.host)):
            assert cluster.node(ref) is cluster.nodes[4]
        with pytest.raises(bootstrap.UsageError, match="no node 'nobody'"):
            cluster.node("nobody")
        assert "Ready to accept connections" in await cluster.logs(0)
        assert len((await cluster.logs(0, tail=2)).splitlines()) == 2
        assert (await cluster.wait(timeout=5)).healthy
        assert len(await anyio.to_thread.run_sync(command.processes)) == 6
    await anyio.to_thread.run_sync(command.assert_nothing_left)
    assert seen[0].name == "plan.made"
    assert {event.cluster for event in seen} == {cluster.name}
    assert "cluster.ready" in [event.name for event in seen]


async def test_two_at_once_are_two(command: Command, root: str) -> None:
    timelines = Timeline(), Timeline()
    async with (
        bootstrap.cluster(nodes=2, replicas=0, runtime="process", state_root=root, observer=timelines[0]) as one,
        bootstrap.cluster(nodes=2, replicas=0, runtime="process", state_root=root, observer=timelines[1]) as other,
    ):
        assert one.name != other.name
        assert set(one.endpoints()).isdisjoint(other.endpoints())
        found = await bootstrap.clusters(runtime="process", state_root=root)
        assert {record.name for record in found} == {one.name, other.name}
    command.assert_nothing_left()
    for timeline in timelines:
        names = [phase.name for phase in timeline.phases]
        assert names[0] == "start"
        assert names[-1] == "proof"
        assert [phase.started for phase in timeline.phases] == sorted(phase.started for phase in timeline.phases)
        assert all(phase.seconds >= 0 for phase in timeline.phases)
        assert any("cannot elect a successor" in warning or "quorum" in warning for warning in timeline.warnings)


async def test_an_exception_in_the_block_removes(command: Command, root: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with bootstrap.cluster(nodes=2, replicas=0, runtime="process", state_root=root):
            raise ZeroDivisionError
    command.assert_nothing_left()


async def test_an_observer_that_raises_ends_it(command: Command, root: str) -> None:
    def observe(event: Event) -> None:
        if event.name == "node.answered":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await bootstrap.create(nodes=2, replicas=0, runtime="process", state_root=root, observer=observe)
    command.assert_nothing_left()


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.25, 0.5, 1.0, 2.5])
async def test_cancellation_removes(command: Command, root: str, delay: float) -> None:
    with anyio.move_on_after(delay) as scope:
        async with bootstrap.cluster(nodes=3, replicas=0, runtime="process", state_root=root):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    command.assert_nothing_left()


async def test_a_cluster_may_be_kept(command: Command, root: str) -> None:
    async with bootstrap.cluster(
        name="kept", nodes=2, replicas=0, runtime="process", state_root=root, keep=True
    ) as cluster:
        port = cluster.endpoints()[0].port
    assert ask(port, "PING")
    (record,) = await bootstrap.clusters(runtime="process", state_root=root)
    assert (record.name, record.running, record.orphan) == ("kept", 2, False)
    # Entering it again takes it as it is, and leaves what was there before.
    async with bootstrap.cluster(name="kept", nodes=2, replicas=0, runtime="process", state_root=root) as same:
        assert same.endpoints() == cluster.endpoints()
    assert len(command.processes()) == 2
    assert await bootstrap.delete("kept", runtime="process", state_root=root)
    assert not await bootstrap.delete("kept", runtime="process", state_root=root)
    command.assert_nothing_left()


# The functions.


async def test_create_stop_create_attach_delete(command: Command, root: str, blockbuster: BlockBuster) -> None:
    made = await bootstrap.create(name="long-lived", nodes=3, replicas=0, runtime="process", state_root=root)
    port = made.endpoints()[0].port
    by_name = await bootstrap.attach("long-lived", runtime="process", state_root=root)
    by_address = await bootstrap.attach(f"127.0.0.1:{port}")
    assert by_name.nodes == made.nodes
    assert by_name.plan is None
    assert set(by_address.endpoints()) == set(made.endpoints())
    assert (await by_address.status()).healthy
    with pytest.raises(bootstrap.UsageError, match="somebody else runs these servers"):
        await by_address.delete()
    await by_name.stop()
    (record,) = await bootstrap.clusters(runtime="process", state_root=root)
    assert record.running == 0
    assert not (await made.status()).healthy
    again = await bootstrap.create(name="long-lived", nodes=3, replicas=0, runtime="process", state_root=root)
    assert again.endpoints() == made.endpoints()
    with pytest.raises(bootstrap.Conflict) as differs:
        await bootstrap.create(name="long-lived", nodes=4, replicas=0, runtime="process", state_root=root)
    assert differs.value.code == "spec-differs"
    await again.delete()
    await anyio.to_thread.run_sync(command.assert_nothing_left)
    with pytest.raises(bootstrap.UsageError) as gone:
        await bootstrap.attach("long-lived", runtime="process", state_root=root)
    assert gone.value.code == "no-such-cluster"
    with pytest.raises(bootstrap.NodeFailed):
        await bootstrap.attach(f"127.0.0.1:{port}")


async def test_form_takes_a_cluster_as_it_is(running: Cluster) -> None:
    formed = await bootstrap.form(*map(str, running.endpoints()))
    assert {node.addresses.host for node in formed.nodes} == set(running.endpoints())
    assert (await formed.status()).healthy


async def test_errors_carry_what_programs_need(command: Command, root: str) -> None:
    with pytest.raises(bootstrap.SpecError) as wrong:
        await bootstrap.create(nodes=0, replicas=-1, name="../x", runtime="process", state_root=root)
    assert [problem.field for problem in wrong.value.problems] == ["name", "nodes", "replicas"]
    with pytest.raises(bootstrap.NodeFailed) as died:
        await bootstrap.create(nodes=2, replicas=0, settings={"bogus": "1"}, runtime="process", state_root=root)
    assert died.value.code == "server-bad-setting"
    assert all("bogus" in log for log in died.value.nodes.values())
    command.assert_nothing_left()


async def test_a_deadline_that_is_too_short(command: Command, root: str) -> None:
    with pytest.raises(bootstrap.BootstrapError) as late:
        await bootstrap.create(nodes=6, runtime="process", state_root=root, timeout=0.4)
    assert isinstance(late.value, (bootstrap.NotConverged, bootstrap.NodeFailed))
    assert "0.4 s" in late.value.message
    assert late.value.hint
    command.assert_nothing_left()


def test_plans_are_pure() -> None:
    plan = bootstrap.plan(nodes=6, replicas=1, zones=["a", "b", "c"])
    assert plan == bootstrap.plan(bootstrap.ClusterSpec(nodes=6, replicas=1, zones=("a", "b", "c")))
    assert [node.name for node in plan.primaries] == ["valkey0", "valkey1", "valkey2"]
    assert plan.nodes[0].addresses.host == bootstrap.Address("127.0.0.1", 6379)
    with pytest.raises(bootstrap.SpecError):
        bootstrap.plan(nodes=0)


# A good guest.


def python(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


@pytest.mark.parametrize("use", ["pass", "bootstrap.ClusterSpec; bootstrap.BootstrapError; dir(bootstrap)"])
def test_importing_it_loads_nothing_heavy(use: str) -> None:
    heavy = ["redis", "docker", "structlog", "rich", "click", "anyio", "psutil", "asyncio"]
    done = python(f"import bootstrap, sys; {use}; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_a_plan_loads_no_client() -> None:
    heavy = ["redis", "docker", "structlog", "rich", "click", "psutil"]
    done = python(f"import bootstrap, sys; bootstrap.plan(); print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


async def test_the_library_prints_nothing(root: str, capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("valkey_bootstrap")
    handlers, level = list(logger.handlers), logger.level
    async with bootstrap.cluster(nodes=2, replicas=0, runtime="process", state_root=root) as cluster:
        await cluster.status()
    with pytest.raises(bootstrap.NodeFailed):
        await bootstrap.create(nodes=2, replicas=0, settings={"bogus": "1"}, runtime="process", state_root=root)
    assert capfd.readouterr() == ("", "")
    assert (list(logger.handlers), logger.level) == (handlers, level)


LOUD = """
import logging, sys, anyio, bootstrap

logging.basicConfig(stream=sys.stderr, level=logging.{level}, format="%(levelname)s %(name)s %(message)s")

async def main():
    async with bootstrap.cluster(nodes=2, replicas=0, runtime="process", state_root=sys.argv[1]):
        pass

anyio.run(main)
"""


def test_what_it_logs_is_the_programs_to_configure(root: str) -> None:
    # structlog is left as it is found, too: unconfigured, it would print to stdout.
    told = python(LOUD.format(level="DEBUG"), root)
    assert told.returncode == 0, told.stderr
    assert told.stdout == ""
    own = [line for line in told.stderr.splitlines() if " valkey_bootstrap " in line]
    assert "DEBUG valkey_bootstrap cluster.ready" in own
    assert len([line for line in own if line.startswith("WARNING")]) == 1
    quiet = python(LOUD.format(level="ERROR"), root)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


SIGNALS = """
import json, signal, sys, anyio, bootstrap

def handlers():
    return [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]

async def main():
    before = handlers()
    async with bootstrap.cluster(nodes=1, replicas=0, runtime="process", state_root=sys.argv[1]):
        assert handlers() == before

anyio.run(main)
print(json.dumps("same"))
"""


def test_signal_handlers_are_not_touched(root: str) -> None:
    done = python(SIGNALS, root)
    assert json.loads(done.stdout or '"failed"') == "same", done.stderr


async def test_no_thread_and_no_file_stays_open(root: str) -> None:
    me = psutil.Process()
    async with bootstrap.cluster(nodes=2, replicas=0, runtime="process", state_root=root):
        pass  # what is opened once and kept, by Python itself as well, is opened now
    gc.collect()  # what tests before this one left in cycles is closed now
    files = me.num_fds()
    for _ in range(2):
        async with bootstrap.cluster(nodes=2, replicas=0, runtime="process", state_root=root) as cluster:
            assert len(nodes_known_to(cluster.endpoints()[0].port)) == 2
    assert me.num_fds() == files
    assert me.children() == []
