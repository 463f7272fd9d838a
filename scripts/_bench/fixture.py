"""How long a test waits for the pytest plugin's cluster, beside the time that its servers need to say ok."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts._bench.failures import Failure
from scripts._bench.formation import LIMIT, environment
from scripts._bench.results import FLOORS, spread

# Nothing of the package is imported before the first fixture is set up: its imports count, as they do for a user.
CONFTEST = """\
import json, time
import pytest

found = {}

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if not found and fixturedef.argname.startswith("valkey_cluster"):
        found["began"] = time.monotonic()
        from bootstrap.runtimes import daemons
        spawn = daemons.spawn

        def noted(*args):
            pid = spawn(*args)
            found["last_start"] = time.monotonic()
            return pid

        daemons.spawn = noted
    result = yield
    if fixturedef.argname == "valkey_cluster":
        found["ready"] = time.monotonic()
    return result

@pytest.fixture
def written():
    def note():
        found["written"] = time.monotonic()
    return note

def pytest_sessionfinish():
    with open("found.json", "w") as file:
        json.dump(found, file)
"""
SUITE = """\
def test_it_is_there(valkey_cluster, written):
    client = valkey_cluster.client()
    for number in range(20):
        assert client.set(f"key{number}", number)
    written()
    client.close()
"""


@dataclass(frozen=True, slots=True)
class Waited:
    """One run. Seconds count from the moment the first of the plugin's fixtures was set up.

    Args:
        last_start: when the last server was started.
        ready: when the test had its cluster.
        written: when it had written to it through a client.
    """

    last_start: float
    ready: float
    written: float

    @property
    def floor(self) -> float:
        """When the last server can call itself ok at the earliest."""
        return self.last_start + FLOORS["start"]


def measure_fixture(server: str) -> Waited:
    """One run of a suite with one test, on local processes.

    Raises:
        Failure: its test failed.
    """
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as name:
        folder = Path(name)
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "test_it.py").write_text(SUITE)
        # In one word each: pytest takes a path that stands alone for one of tests.
        where = ("--valkey-runtime=process", f"--valkey-server={server}")
        line = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_valkey_bootstrap", "-p", "no:cacheprovider", *where]
        # Where its clusters are kept by default.
        variables = {**environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "XDG_STATE_HOME": str(folder / "state")}
        done = subprocess.run(
            line, cwd=folder, env=variables, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        if done.returncode:
            raise Failure(f"the suite failed: {done.stdout.strip()[-500:]}", "run it by itself")
        found = json.loads((folder / "found.json").read_text())
    began = found.pop("began")
    return Waited(**{name: at - began for name, at in found.items()})


def run_fixture(runs: int, server: str, tell: Callable[[str], None]) -> list[str]:
    """The lines of the table, all in seconds."""
    found = []
    for turn in range(runs):
        found.append(run := measure_fixture(server))
        tell(f"{turn + 1}/{runs}  floor {run.floor:.2f} s, ready {run.ready:.2f} s, written {run.written:.2f} s")
    columns = [[run.last_start, run.floor, run.ready, run.written] for run in found]
    shown = " ".join(f"{spread(column)!s:20}" for column in zip(*columns, strict=True))
    return [
        f"{'last start':20} {'floor':20} {'ready':20} {'written':20} written/floor",
        f"{shown} {spread(run.written / run.floor for run in found)}",
    ]
