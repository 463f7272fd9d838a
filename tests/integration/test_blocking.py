"""The blocking API on real servers, in programs with and without threads, and interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bootstrap
from bootstrap import Event, blocking
from tests.integration.conftest import Command

pytestmark = pytest.mark.servers


@pytest.fixture
def root(command: Command) -> str:
    return str(command.root)


def test_a_cluster_for_a_block(command: Command, root: str) -> None:
    seen: list[Event] = []
    with blocking.cluster(nodes=3, replicas=0, runtime="process", state_root=root, observer=seen.append) as cluster:
        assert isinstance(cluster, bootstrap.blocking.Cluster)
        assert cluster.plan is not None
        assert [event.name for event in seen][-1] == "cluster.ready"
        client = cluster.client(decode_responses=True)
        assert client.set("key", "value")
        assert client.get("key") == "value"
        client.close()
        assert cluster.status().healthy
        assert cluster.wait(timeout=5).healthy
        assert cluster.doctor().healthy
        assert "Ready to accept connections" in cluster.logs(0)
        cluster.reset(timeout=20)
        compile(cluster.snippet("redis-py"), "snippet", "exec")
    command.assert_nothing_left()


def test_an_error_in_the_block_is_its_own(command: Command, root: str) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        blocking.cluster(nodes=1, replicas=0, runtime="process", state_root=root) as cluster,
    ):
        assert 1 / len(cluster.nodes[1:])
    command.assert_nothing_left()


def test_a_cluster_that_lasts(command: Command, root: str) -> None:
    made = blocking.create(name="lasts", nodes=2, replicas=0, runtime="process", base_port="auto", state_root=root)
    assert [record.name for record in blocking.clusters(state_root=root, runtime="process")] == ["lasts"]
    found = blocking.attach("lasts", state_root=root, runtime="process")
    assert found.endpoints() == made.endpoints()
    formed = blocking.form(*map(str, made.endpoints()))
    assert [node.id for node in formed.status().nodes] == [node.id for node in made.status().nodes]
    found.stop()
    assert not made.status().healthy
    with pytest.raises(bootstrap.NotConverged):
        made.wait(timeout=0.2)
    assert blocking.create(name="lasts", nodes=2, replicas=0, runtime="process", state_root=root).status().healthy
    assert blocking.delete("lasts", state_root=root, runtime="process")
    assert not blocking.delete("lasts", state_root=root, runtime="process")
    command.assert_nothing_left()


def test_several_threads_at_once(command: Command, root: str) -> None:
    def one(_: int) -> str:
        with blocking.cluster(nodes=2, replicas=1, runtime="process", state_root=root) as cluster:
            assert cluster.status().healthy
            return cluster.name

    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(one, range(3)))) == 3
    command.assert_nothing_left()


async def test_beside_an_event_loop(command: Command, root: str) -> None:
    # As in a notebook, whose loop is blocked meanwhile.
    with blocking.cluster(nodes=1, replicas=0, runtime="process", state_root=root) as cluster:
        client = cluster.async_client()
        assert await client.set("key", "value")
        await client.aclose()
    command.assert_nothing_left()


@pytest.mark.parametrize("moment", ["node.started", "cluster.ready"])
def test_interrupted_it_cleans_up_first(command: Command, tmp_path: Path, moment: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys, time
            import bootstrap

            def tell(event):
                print(event.name, flush=True)

            root = sys.argv[1]
            try:
                with bootstrap.blocking.cluster(nodes=3, runtime="process", state_root=root, observer=tell):
                    time.sleep(60)
            except KeyboardInterrupt:
                print("interrupted")
            """
        )
    )
    argv = [sys.executable, str(program), str(command.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=command.env()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == moment:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(20) == 0, rest
    assert rest.splitlines()[-1] == "interrupted"
    command.assert_nothing_left()
