"""Fixtures of real Valkey clusters for pytest: `valkey_cluster`, and what is made of it.

A module beside the package, since many repositories have a `bootstrap` of their own: that would shadow the package, and
a plugin inside it would end every test run there. Nothing of the package is imported until a fixture is used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import pytest

if TYPE_CHECKING:
    from redis.cluster import RedisCluster

    from bootstrap import BootstrapError, ClusterSpec, Login, SpecFields
    from bootstrap.blocking import Cluster
    from bootstrap.planning.spec import RuntimeKind

PREFIX = "pytest-"
"""What names of clusters made here begin with."""

LOG_LINES = 8
"""How many of each node's last lines a failed test shows."""

_FIXTURES = {
    "valkey_cluster", "valkey_cluster_factory", "valkey_cluster_client", "valkey_clean_cluster",
}  # fmt: skip
_pool = pytest.StashKey["Pool"]()
_run = pytest.StashKey["Run"]()


class ClusterFactory(Protocol):
    """What `valkey_cluster_factory` gives."""

    def __call__(
        self, spec: ClusterSpec | None = None, /, *, login: Login | str | None = None, **fields: Unpack[SpecFields]
    ) -> Cluster:
        """A cluster of this specification: the same one each time."""


# Options.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Flags, each of which can be set in the ini file as well."""
    group = parser.getgroup("valkey-bootstrap", "clusters for tests (valkey-bootstrap)")
    for name, what in (
        ("runtime", "where servers run: auto, docker or process"),
        ("image", "what containers run"),
        ("server", "the server binary of local processes"),
    ):
        group.addoption(f"--valkey-{name}", metavar=name.upper(), help=what)
        parser.addini(f"valkey_{name}", what)
    for name, what in (
        ("shared", "one cluster for all workers of pytest-xdist: tests that use `valkey_clean_cluster` take turns"),
        ("skip", "skip tests where no server can be started, instead of failing"),
    ):
        group.addoption(f"--valkey-{name}", action="store_true", default=None, help=what)
        parser.addini(f"valkey_{name}", what, type="bool", default=False)
    parser.addini("valkey_timeout", "seconds until a cluster must be ready", default="60")


def _option(config: pytest.Config, name: str) -> Any:
    given = config.getoption(f"valkey_{name}")
    return config.getini(f"valkey_{name}") if given is None else given


# The package: not imported before it is needed, and not mistaken.


def pytest_collection_finish(session: pytest.Session) -> None:
    """Say it once, and at the beginning, when the package cannot be imported."""
    used = any(_FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items)
    # A worker of pytest-xdist that refuses ends the run with an internal error: there each test says it.
    if used and not _run_of(session.config).worker and (problem := _problem()):
        raise pytest.UsageError(problem)


def _problem() -> str:
    """Why the package cannot be used; "" where nothing is in its way."""
    ours = Path(__file__).resolve().parent / "bootstrap" / "__init__.py"
    loaded = sys.modules.get("bootstrap")
    if loaded is not None:
        origin = getattr(loaded, "__file__", None) or str(loaded)
    else:
        found = importlib.util.find_spec("bootstrap")
        origin = (found.origin or str(found.submodule_search_locations)) if found else "nothing"
    if Path(origin).resolve() == ours:
        return ""
    return (
        f"`import bootstrap` gives {origin}, not the package of valkey-bootstrap, which the fixtures of valkey_cluster"
        " need: rename it, or put it inside a package of your own"
    )


# One run of pytest, with its workers.


@dataclass(frozen=True, slots=True)
class Run:
    """What all processes of one run have in common.

    Args:
        id: random.
        owner: process id of the one that was started by hand: clusters are orphans when it is gone.
        worker: of pytest-xdist, "" where there are none.
    """

    id: str
    owner: int
    worker: str = ""

    @property
    def folder(self) -> Path:
        """Where workers note down which clusters they made, and take turns."""
        return Path(tempfile.gettempdir()) / f"valkey-bootstrap-pytest-{self.id}"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Only one process of the run at a time."""
        from filelock import FileLock

        self.folder.mkdir(mode=0o700, exist_ok=True)
        with FileLock(self.folder / f"{name}.lock"):
            yield


def _run_of(config: pytest.Config) -> Run:
    if _run not in config.stash:
        given = getattr(config, "workerinput", {})
        worker = str(given.get("workerid", ""))
        owner = int(given.get("valkey_owner", os.getpid()))
        config.stash[_run] = Run(str(given.get("valkey_run", secrets.token_hex(8))), owner, worker)
    return config.stash[_run]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist whose it is."""
    run = _run_of(node.config)
    node.workerinput |= {"valkey_run": run.id, "valkey_owner": run.owner}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove what workers left, such as the cluster that they shared, or that of a worker that crashed."""
    run = _run_of(session.config)
    if run.worker or not run.folder.is_dir():
        return
    from bootstrap import blocking

    for note in sorted(run.folder.glob("*.json")):
        made = json.loads(note.read_text())
        blocking.delete(made["name"], runtime=made["runtime"], state_root=made["state_root"])
        note.unlink()
    for lock in run.folder.iterdir():
        lock.unlink()
    run.folder.rmdir()


@dataclass(slots=True)
class Pool:
    """The clusters of this process, one for each specification, and the one that it shares with other workers."""

    config: pytest.Config
    run: Run
    own: dict[tuple[str, Login], Cluster] = field(default_factory=dict)
    shared: Cluster | None = None
    swept: bool = False

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """All of them."""
        return (*self.own.values(), *((self.shared,) if self.shared else ()))

    def get(self, spec: ClusterSpec, login: Login) -> Cluster:
        """This process's cluster of a specification, made at the first call."""
        key = (repr(spec), login)
        if key not in self.own:
            self.own[key] = self._make(spec, login, secrets.token_hex(4))
        return self.own[key]

    def get_shared(self, spec: ClusterSpec, login: Login) -> Cluster:
        """The cluster of all workers: the first one makes it, the others find it made."""
        with self.run.lock("shared"):
            self.shared = self._make(spec, login, sha256(self.run.id.encode()).hexdigest()[:8])
        return self.shared

    def _make(self, spec: ClusterSpec, login: Login, suffix: str) -> Cluster:
        from bootstrap import RuntimeUnavailable, blocking, handle
        from bootstrap.operations.create import CreateOptions, create

        # Letters only at the end: node names then need no hyphen.
        spec = replace(spec, name=f"{PREFIX}{suffix}x")
        options = CreateOptions(_timeout(self.config), owner=self.run.owner, login=login)
        try:
            self._sweep(spec)
            self._note(spec)
            made = blocking.run(lambda: create(spec, handle.access_with(), options=options))
        except RuntimeUnavailable as error:
            if _option(self.config, "skip"):
                pytest.skip(error.message)
            raise
        return blocking.Cluster(handle.Cluster(made.deployment, made.plan))

    def _note(self, spec: ClusterSpec) -> None:
        """For whoever clears up where this process cannot."""
        if self.run.worker:
            self.run.folder.mkdir(mode=0o700, exist_ok=True)
            note = {"name": spec.name, "runtime": spec.runtime, "state_root": spec.state_root}
            self._note_of(spec.name).write_text(json.dumps(note))

    def _note_of(self, name: str) -> Path:
        return self.run.folder / f"{name}.json"

    def _sweep(self, spec: ClusterSpec) -> None:
        """Remove the clusters of runs that were killed."""
        if self.swept:
            return
        from bootstrap import Conflict, blocking

        self.swept = True
        for record in blocking.clusters(state_root=spec.state_root):
            if record.orphan and record.name.startswith(PREFIX):
                # Another run may be at it.
                with suppress(Conflict):
                    kind: RuntimeKind = "docker" if record.runtime == "docker" else "process"
                    blocking.delete(record.name, runtime=kind, state_root=spec.state_root)

    @contextmanager
    def turn(self, cluster: Cluster) -> Iterator[None]:
        """A cluster that workers share is this one's alone for the block."""
        with self.run.lock("turn") if cluster is self.shared else nullcontext():
            yield

    def close(self) -> None:
        """Delete what is this process's own."""
        for cluster in self.own.values():
            cluster.delete()
            self._note_of(cluster.name).unlink(missing_ok=True)


# Fixtures.


@pytest.fixture(scope="session")
def valkey_cluster_spec() -> ClusterSpec | SpecFields | None:
    """What `valkey_cluster` is: override it with a `bootstrap.ClusterSpec` or a dict of its fields."""
    return None


@pytest.fixture(scope="session")
def valkey_cluster_login() -> Login | str | None:
    """Who gets into `valkey_cluster`: override it with a password, or a `bootstrap.Login`."""
    return None


@pytest.fixture(scope="session")
def valkey_cluster_factory(request: pytest.FixtureRequest) -> Iterator[ClusterFactory]:
    """A function that gives clusters: for each specification one, which lives until the end of the session.

    It is given as a `bootstrap.ClusterSpec`, by fields, or both; name and ports are chosen here. What an earlier test
    left in a cluster is still there: `cluster.reset()` clears it away.
    """
    pool = _pool_of(request.config)

    def make(
        spec: ClusterSpec | None = None, /, *, login: Login | str | None = None, **fields: Unpack[SpecFields]
    ) -> Cluster:
        return pool.get(_spec(request.config, spec, fields), _login(login))

    yield make
    pool.close()


@pytest.fixture(scope="session")
def valkey_cluster(
    request: pytest.FixtureRequest,
    valkey_cluster_factory: ClusterFactory,
    valkey_cluster_spec: ClusterSpec | SpecFields | None,
    valkey_cluster_login: Login | str | None,
) -> Cluster:
    """A cluster for all tests: 6 nodes and 1 replica unless `valkey_cluster_spec` says otherwise.

    Its methods block, so that it can be used by tests of every kind; `async_client` gives a client for those that have
    an event loop. What an earlier test left in it is still there: see `valkey_clean_cluster`.
    """
    fields: Mapping[str, Any] = valkey_cluster_spec if isinstance(valkey_cluster_spec, Mapping) else {}
    spec = None if isinstance(valkey_cluster_spec, Mapping) else valkey_cluster_spec
    pool = _pool_of(request.config)
    if pool.run.worker and _option(request.config, "shared"):
        return pool.get_shared(_spec(request.config, spec, fields), _login(valkey_cluster_login))
    return valkey_cluster_factory(spec, login=valkey_cluster_login, **fields)


@pytest.fixture
def valkey_clean_cluster(request: pytest.FixtureRequest, valkey_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster as it was when it was made: all servers up, roles as planned, no keys, functions or scripts.

    Where workers share it, it is this test's alone.
    """
    with _pool_of(request.config).turn(valkey_cluster):
        valkey_cluster.reset(timeout=_timeout(request.config))
        yield valkey_cluster


@pytest.fixture
def valkey_cluster_client(valkey_clean_cluster: Cluster) -> Iterator[RedisCluster]:
    """A client of redis-py for a clean cluster."""
    client = valkey_clean_cluster.client()
    yield client
    client.close()


def _pool_of(config: pytest.Config) -> Pool:
    if _pool not in config.stash:
        if problem := _problem():
            pytest.fail(problem, pytrace=False)
        config.stash[_pool] = Pool(config, _run_of(config))
    return config.stash[_pool]


def _login(given: Login | str | None) -> Login:
    from bootstrap import Login

    return given if isinstance(given, Login) else Login(given)


def _timeout(config: pytest.Config) -> float:
    return float(config.getini("valkey_timeout"))


def _spec(config: pytest.Config, spec: ClusterSpec | None, fields: Mapping[str, Any]) -> ClusterSpec:
    from bootstrap import ClusterSpec

    flags = {name: value for name in ("runtime", "image", "server") if (value := _option(config, name))}
    found = replace(spec or ClusterSpec(), **{**fields, **flags})
    # Whoever names a port means it.
    return replace(found, name=ClusterSpec().name, base_port=found.base_port or "auto")


# Reports.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the servers logged last, and errors of the package as people read them."""
    report = yield
    used = _FIXTURES & set(getattr(item, "fixturenames", ()))
    if not (report.failed and used and _pool in item.config.stash):
        return report
    if call.excinfo is not None and report.when == "setup":
        from bootstrap import BootstrapError

        if isinstance(error := call.excinfo.value, BootstrapError):
            report.longrepr = _words(error)
    for cluster in item.config.stash[_pool].clusters:
        report.sections.append((f"last log lines of {cluster.name}", _last_lines(cluster)))
    return report


def _words(error: BootstrapError) -> str:
    nodes = "".join(f"\n\n{node}:\n{text}" for node, text in error.nodes.items())
    hint = f"\n\nhint: {error.hint}" if error.hint else ""
    return f"{error.message} ({error.code}){nodes}{hint}"


def _last_lines(cluster: Cluster) -> str:
    from bootstrap import BootstrapError

    lines = []
    for node in cluster.nodes:
        try:
            text = cluster.logs(node.name, tail=LOG_LINES)
        except BootstrapError as error:
            text = error.message
        lines += [f"{node.name} | {line}" for line in text.splitlines()]
    return "\n".join(lines)
