"""What is shown works: every example, as it is."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from bootstrap import blocking
from bootstrap.runtimes.engine import facts

from .conftest import free_block, nodes_known_to, until
from .containers import image_of
from .reader import EXAMPLES, Reader

pytestmark = pytest.mark.servers

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
@pytest.mark.slow
def test_the_suite_with_containers(reader: Reader, engine: docker.DockerClient) -> None:
    where = ("--valkey-runtime", "docker", "--valkey-image", image_of("valkey-9.1"))
    done = run_suite(reader, *where, more={"DOCKER_HOST": facts.endpoint()})
    assert done.returncode == 0, done.stdout + done.stderr


def run_suite(reader: Reader, *args: str, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    # The plugins by name: the project may not be installed, and what else is installed is not part of the example.
    plugins = ("pytest_valkey_bootstrap", "anyio.pytest_plugin", "pytest_asyncio.plugin", "xdist")
    named = [word for plugin in plugins for word in ("-p", plugin)]
    return reader.run(
        sys.executable, "-m", "pytest", "-W", "error", *named, *args, cwd=reader.copy("pytest_suite"),
        more={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **(more or {})},
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
        done = reader.run("bash", "-e", script, more={**variables, "GITHUB_ENV": str(exported)})
        assert done.returncode == 0, (step, done.stdout, done.stderr)
        if "pytest" in step["run"]:
            assert "1 passed" in done.stdout
    # A runner's machine goes with what is on it.
    for name in ["ci"] if job == "several-steps" else []:
        assert reader.run("valkey-bootstrap", "delete", name).returncode == 0


def test_actions_have_a_version() -> None:
    used = {step["uses"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "uses" in step}
    assert used == {"actions/checkout@v6", "actions/setup-python@v6"}
