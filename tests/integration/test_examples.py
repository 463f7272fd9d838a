"""What is shown works: every example, and every Python snippet of README.md and docs/api.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from bootstrap import blocking
from bootstrap.runtimes.engine import facts

from .conftest import Command, find_server, free_block, nodes_known_to, until
from .containers import image_of

pytestmark = pytest.mark.servers

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who tries what is written, in a folder and with a home of his own, and without an engine."""

    folder: Path

    @property
    def state(self) -> Path:
        """Where his clusters are."""
        return self.folder / "state" / "valkey-bootstrap"

    def env(self, **more: str) -> dict[str, str]:
        """His environment: the package and its command are installed."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("VALKEY_", "PYTEST_"))}
        own = {
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "TMPDIR": str(self.folder),
            "DOCKER_HOST": f"unix://{self.folder}/no-engine",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "NO_COLOR": "1",
        }
        return {**clean, **own, **more}

    def run(self, *argv: str | Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            argv, cwd=cwd or self.folder, env=self.env(**more), capture_output=True, text=True, timeout=120, check=False
        )

    def copy(self, example: str) -> Path:
        """An example by itself, without what is around it here."""
        return Path(shutil.copytree(EXAMPLES / example, self.folder / example))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader, who is left with nothing."""
    made = Reader(tmp_path)
    command = tmp_path / "bin" / "valkey-bootstrap"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m bootstrap "$@"\n')
    command.chmod(0o755)
    find_server("valkey-9.1")
    yield made
    left = blocking.clusters(runtime="process", state_root=str(made.state))
    for record in left:
        blocking.delete(record.name, runtime="process", state_root=str(made.state))
    assert [record.name for record in left] == []
    Command(made.state).assert_nothing_left()


# FastAPI.


@contextmanager
def uvicorn(reader: Reader, folder: Path, port: int) -> Iterator[Path]:
    """The application, reloaded when its code changes; gives the log."""
    log = reader.folder / "uvicorn.log"
    argv = [sys.executable, "-m", "uvicorn", "main:app", "--reload", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, cwd=folder, env=reader.env(), stdout=output, stderr=output)
    try:
        until(lambda: log.read_text().count("Application startup complete") == 1, 30)
        yield log
    finally:
        process.terminate()
        process.wait(20)


def ask_app(port: int, path: str, method: str = "GET") -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return yaml.safe_load(reply.read())


def test_the_application_finds_its_cluster_again(reader: Reader) -> None:
    folder, port = reader.copy("fastapi_app"), free_block(1)

    def ids() -> set[str]:
        running = blocking.attach("hits", runtime="process", state_root=str(reader.state))
        return set(nodes_known_to(running.endpoints()[0].port))

    with uvicorn(reader, folder, port) as log:
        assert [ask_app(port, "/hits/home", "POST") for _ in range(2)] == [1, 2]
        health = ask_app(port, "/health")
        assert (health["healthy"], sorted(health["nodes"].values())) == (True, ["primary"] * 3 + ["replica"] * 3)
        before = ids()
        assert len(before) == 6
        code = folder / "main.py"
        code.write_text(code.read_text().replace('"/health"', '"/cluster"'))
        until(lambda: log.read_text().count("Application startup complete") == 2, 30)
        assert ask_app(port, "/cluster")["healthy"] is True
        assert ask_app(port, "/hits/home", "POST") == 3
        assert ids() == before
    assert "Traceback" not in log.read_text()
    with uvicorn(reader, folder, port):
        assert ask_app(port, "/hits/home", "POST") == 4
    assert ids() == before
    assert reader.run("valkey-bootstrap", "delete", "hits").returncode == 0


# The suite.


@pytest.mark.parametrize("workers", [0, 2])
def test_the_suite(reader: Reader, workers: int) -> None:
    done = run_suite(reader, "-n", str(workers))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


@pytest.mark.docker
def test_the_suite_with_containers(reader: Reader, engine: docker.DockerClient) -> None:
    where = {"DOCKER_HOST": facts.endpoint()}
    done = run_suite(reader, "--valkey-runtime", "docker", "--valkey-image", image_of("valkey-9.1"), **where)
    assert done.returncode == 0, done.stdout + done.stderr


def run_suite(reader: Reader, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    # The plugins by name: the project may not be installed, and what else is installed is not part of the example.
    plugins = ("pytest_valkey_bootstrap", "anyio.pytest_plugin", "pytest_asyncio.plugin", "xdist")
    named = [word for plugin in plugins for word in ("-p", plugin)]
    return reader.run(
        sys.executable, "-m", "pytest", "-W", "error", *named, *args, cwd=reader.copy("pytest_suite"),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **more,
    )  # fmt: skip


# The script.


def test_the_script(reader: Reader) -> None:
    done = reader.run(sys.executable, EXAMPLES / "script.py")
    assert (done.returncode, done.stderr) == (0, "")
    found = {
        int(line.split()[0]): [int(size) for size in re.findall(r"\d+", line)[1:]] for line in done.stdout.splitlines()
    }
    assert {primaries: len(sizes) for primaries, sizes in found.items()} == {3: 3, 5: 5}
    assert all(sum(sizes) == 1000 for sizes in found.values())


# The workflow.

WORKFLOW: dict[str, Any] = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
USER_OF_URL = """
import os
from redis.cluster import RedisCluster

def test_six_nodes():
    with RedisCluster.from_url(os.environ["VALKEY_URL"]) as client:
        assert client.set("key", "value")
        assert len(client.get_nodes()) == 6
"""


@pytest.mark.parametrize("job", WORKFLOW["jobs"])
def test_the_workflow(reader: Reader, job: str) -> None:
    """Every step that runs something, as a runner does it, but for pip: the package is there already."""
    (reader.folder / "test_url.py").write_text(USER_OF_URL)
    exported = reader.folder / "exported"
    exported.touch()
    steps = [step for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]
    assert steps[0]["run"].startswith("pip install ")
    for step in steps[1:]:
        variables = dict(line.split("=", 1) for line in exported.read_text().splitlines())
        script = reader.folder / "step.sh"
        script.write_text(step["run"])
        # https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax: an unspecified shell.
        done = reader.run("bash", "-e", script, GITHUB_ENV=str(exported), **variables)
        assert done.returncode == 0, (step, done.stdout, done.stderr)
        if "pytest" in step["run"]:
            assert "1 passed" in done.stdout
    # A runner's machine goes with what is on it.
    for name in ["ci"] if job == "several-steps" else []:
        assert reader.run("valkey-bootstrap", "delete", name).returncode == 0


def test_actions_have_a_version() -> None:
    used = {step["uses"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "uses" in step}
    assert used == {"actions/checkout@v6", "actions/setup-python@v6"}
