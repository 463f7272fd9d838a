"""Clusters with a password: made, used, seen through, kept from everybody else."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import docker
import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import bootstrap

from .conftest import VERSIONS, Command, ask, end_servers, find_server, until
from .containers import CLUSTER, Containers, make, remove, run_inside
from .libraries import LIBRARIES, keys_through, printed_by

pytestmark = pytest.mark.servers

SECRET = 'horse "battery" \\staple# ürsel'
SIX = ("--nodes", 6, "--replicas", 1)
KEYS = 1000


@pytest.fixture(scope="module")
def password_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("login") / "password"
    path.write_text(SECRET + "\n")
    return path


def port_of(node: dict[str, Any]) -> int:
    return int(node["addresses"]["host"].rpartition(":")[2])


def refusal(port: int, password: str | None = None) -> str:
    # Once: redis-py takes a refusal for a lost connection, and tries again for seconds.
    with redis.Redis(port=port, password=password, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
        with pytest.raises(redis.AuthenticationError) as refused:
            client.ping()
        return str(refused.value)


# Local processes.


@pytest.fixture(scope="module", params=VERSIONS)
def protected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, password_file: Path
) -> Iterator[Command]:
    """A cluster with a password, by version."""
    command = Command(tmp_path_factory.mktemp("protected") / "state")
    try:
        command.ok(
            *SIX, "--password-file", password_file, "--base-port", "auto", "--server", find_server(request.param)
        )
        yield command
        command.ok("delete")
        command.assert_nothing_left()
    finally:
        end_servers(command)


def test_nobody_gets_in_without_it(protected: Command) -> None:
    for node in protected.json("status")["nodes"]:
        assert "required" in refusal(port_of(node))
        assert refusal(port_of(node), password="horse").startswith("invalid username-password")
        assert ask(port_of(node), "PING", password=SECRET)


def test_every_verb_knows_it(protected: Command, password_file: Path) -> None:
    document = protected.json("status")
    assert document["health"] == "ok"
    kept = Path(document["login"]["password_file"])
    assert document["login"]["user"] == "default"
    assert kept.read_text() == SECRET
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    protected.ok("wait", "--timeout", 10)
    assert protected.ok("doctor").endswith("is healthy: 6 nodes\n")
    assert "nothing was changed" in protected(*SIX).stderr
    assert "nothing was changed" in protected(*SIX, "--password-file", password_file).stderr
    # Servers of somebody else, for this one.
    where = document["nodes"][2]["addresses"]["host"]
    assert "give the password with --password-file" in protected.fails(5, "status", where)
    for verb in ("status", "doctor", "wait"):
        protected.ok(verb, where, "--password-file", password_file)


def test_another_one_is_refused(protected: Command, tmp_path: Path) -> None:
    other = Command(protected.root, {"VALKEY_BOOTSTRAP_PASSWORD": "battery"})
    assert "has another password (login-differs)" in other.fails(4, *SIX)
    done = other("status", "--exit-code")
    assert done.returncode == 7
    assert done.stdout.count("refuses the login") == 6
    assert "(login-differs)" in protected.fails(4, *SIX, "--acl-file", acl_file(tmp_path, "someone"))


def test_a_server_that_ended_is_started_with_it(protected: Command) -> None:
    victim = next(each for each in protected.processes() if Path(each.cwd()).name == "valkey4")
    victim.kill()
    until(lambda: protected("status", "--exit-code").returncode == 7)
    protected.ok(*SIX)
    assert protected.json("status")["health"] == "ok"


def test_what_is_kept_may_be_given_again(protected: Command, password_file: Path) -> None:
    kept = Path(protected.json("status")["login"]["password_file"])
    kept.unlink()
    assert "needs a password, and none is given or kept here (password-missing)" in protected.fails(2, *SIX)
    assert protected("status").stdout.count("refuses the login") + protected("status").stdout.count("NOAUTH") > 0
    done = protected("doctor")
    assert done.returncode == 7
    assert done.stdout.count("no node takes the login (login-refused)") == 1
    assert done.stdout.count("✗") == 1
    protected.ok("status", "--exit-code", "--password-file", password_file)
    protected.ok(*SIX, "--password-file", password_file)
    assert kept.read_text() == SECRET


@pytest.mark.parametrize("library", LIBRARIES)
def test_clients_log_in(protected: Command, library: str) -> None:
    address = "127.0.0.1", port_of(protected.json("status")["nodes"][0])
    argv = keys_through(library, address, library, KEYS)
    assert printed_by(argv, KEYS_PASSWORD=SECRET) == f"{KEYS}\n"


# Users.


def acl_file(folder: Path, *users: str) -> Path:
    path = folder / "users.acl"
    path.write_text("user default off\n" + "".join(f"user {name} on >{name}-secret ~* &* +@all\n" for name in users))
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_a_user_with_a_name(command: Command, version: str) -> None:
    command.ok(
        *SIX, "--user", "app", "--generate-password", "--base-port", "auto", "--server", find_server(version)
    )  # fmt: skip
    document = command.json("status")
    secret = Path(document["login"]["password_file"]).read_text()
    assert document["login"]["user"] == "app"
    assert len(secret) >= 32
    first = port_of(document["nodes"][0])
    assert "required" in refusal(first)
    assert refusal(first, password=secret).startswith("invalid username-password")
    argv = keys_through("ioredis", ("127.0.0.1", first), "app", KEYS)
    assert printed_by(argv, KEYS_PASSWORD=secret, KEYS_USER="app") == f"{KEYS}\n"
    assert command.ok("doctor").endswith("is healthy: 6 nodes\n")
    assert "user is app, asked for is web" in command.fails(4, *SIX, "--user", "web", "--generate-password")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_acl_file(command: Command, tmp_path: Path, version: str) -> None:
    flags = ("--user", "ops", "--acl-file", acl_file(tmp_path, "ops", "app"), "--server", find_server(version))
    own = Command(command.root, {"VALKEY_BOOTSTRAP_PASSWORD": "ops-secret"})
    own.ok(*SIX, *flags, "--base-port", "auto")
    nodes = command.json("status")["nodes"]
    for node in nodes:
        with redis.Redis(port=port_of(node), username="ops", password="ops-secret", decode_responses=True) as client:
            assert sorted(client.acl_users()) == ["app", "default", "ops"]
    process = next(each for each in command.processes() if Path(each.cwd()).name == "valkey5")
    process.kill()
    until(lambda: command("status", "--exit-code").returncode == 7)
    command.ok(*SIX)
    assert command.ok("doctor").endswith("is healthy: 6 nodes\n")


def test_a_user_that_is_not_in_the_acl_file(command: Command, tmp_path: Path) -> None:
    own = Command(command.root, {"VALKEY_BOOTSTRAP_PASSWORD": "x", "TMPDIR": str(tmp_path)})
    told = own.fails(5, *SIX, "--acl-file", acl_file(tmp_path, "ops"), "--base-port", "auto")
    assert "refuses the login" in told
    command.assert_nothing_left()


@pytest.mark.parametrize(
    ("flags", "variables", "code", "words"),
    [
        (("--generate-password",), {"VALKEY_BOOTSTRAP_PASSWORD": "x"}, 2, "one is given, and one is to be generated"),
        (("--user", "app"), {}, 2, "the user app needs a password, and none is given"),
        (("--user", "a b"), {}, 2, "'a b' is not the name of a user"),
        ((), {"VALKEY_BOOTSTRAP_PASSWORD": "a\nrequirepass x"}, 2, "control characters"),
        (("--acl-file", "/nonexistent/acl"), {}, 2, "`/nonexistent/acl` cannot be read"),
        (("--acl-file", "/dev/null"), {}, 2, "needs a password"),
        (("--set", "requirepass=x"), {}, 2, "who logs in is decided by --password-file"),
    ],
)
def test_what_cannot_be(
    command: Command, flags: tuple[str, ...], variables: dict[str, str], code: int, words: str
) -> None:
    assert words in Command(command.root, variables).fails(code, *SIX, *flags)
    command.assert_nothing_left()


async def test_as_a_library() -> None:
    async with bootstrap.cluster(nodes=3, replicas=0, runtime="process", login=bootstrap.Login(generate=True)) as made:
        assert made.connection_kwargs().keys() == {"host", "port", "password"}
        client = made.client(decode_responses=True)
        assert await client.set("key", "value")
        await client.aclose()
        assert (await made.status()).healthy
        again = await bootstrap.attach(made.name)
        assert again.connection_kwargs() == made.connection_kwargs()
        assert (await again.doctor()).healthy
    async with bootstrap.cluster(nodes=3, replicas=0, runtime="process", login="x y", user="app") as made:
        assert made.connection_kwargs() | {"host": "", "port": 0} == {
            "host": "", "port": 0, "username": "app", "password": "x y"
        }  # fmt: skip


# Containers.


@pytest.fixture(scope="module")
def contained(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory, password_file: Path
) -> Iterator[Containers]:
    containers = make(engine, tmp_path_factory.mktemp("contained") / "state")
    try:
        containers.ok(*SIX, "--password-file", password_file)
        yield containers
        containers.ok("delete")
        containers.assert_nothing_left()
        assert not containers.command.root.exists()
    finally:
        remove(containers)


@pytest.mark.docker
@pytest.mark.xdist_group("login-containers")
@pytest.mark.parametrize("library", ["redis-py", "valkey-py", "ioredis"])
def test_clients_log_in_to_containers(contained: Containers, library: str) -> None:
    first = contained.nodes()[0]["addresses"]
    here = keys_through(library, ("127.0.0.1", int(first["host"].rpartition(":")[2])), f"{library}-here", KEYS)
    assert printed_by(here, KEYS_PASSWORD=SECRET) == f"{KEYS}\n"
    host, _, port = first["network"].rpartition(":")
    inside = keys_through(library, (host, int(port)), f"{library}-inside", KEYS)
    variables = {"KEYS_PASSWORD": SECRET}
    assert run_inside(contained, inside, network=contained.network_name, variables=variables) == f"{KEYS}\n"


@pytest.mark.docker
@pytest.mark.xdist_group("login-containers")
def test_every_verb_knows_it_in_containers(contained: Containers) -> None:
    contained.ok("status", "--exit-code")
    contained.ok("wait", "--timeout", 10)
    assert contained.ok("doctor").endswith("is healthy: 6 nodes\n")
    contained.container(4).kill()
    assert contained("status", "--exit-code").returncode == 7
    contained.ok(*SIX)
    contained.ok("status", "--exit-code")


# Where it must not be.


class Watch:
    """Looks at all processes while something runs: their command lines, and the environments of servers."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._done.is_set():
            for process in psutil.process_iter():
                try:
                    line = "\0".join(process.cmdline())
                    self.seen.add(line)
                    if "server" in line:
                        self.seen.add("\0".join(f"{k}={v}" for k, v in process.environ().items()))
                except psutil.Error:
                    continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


MARK = "needle-in-the-haystack"


@pytest.mark.docker
@pytest.mark.parametrize("runtime", ["process", "docker"])
def test_it_is_nowhere_to_be_seen(engine: docker.DockerClient, tmp_path: Path, runtime: str) -> None:
    containers = make(engine, tmp_path / "state")
    if runtime == "process":
        own = {"VALKEY_BOOTSTRAP_NAME": containers.name, "VALKEY_BOOTSTRAP_BASE_PORT": "auto"}
        containers = replace(containers, command=Command(tmp_path / "state", own))
    secret_file = tmp_path / "secret"
    secret_file.write_text(MARK)
    said: list[str] = []

    def run(*words: Any) -> subprocess.CompletedProcess[str]:
        done = containers(*words)
        said.extend((done.stdout, done.stderr))
        return done

    try:
        with Watch() as watch:
            login = ("--password-file", secret_file)
            run(*SIX, *login, "--dry-run", "-v")
            run(*SIX, *login, "--dry-run", "-o", "json")
            assert run(*SIX, *login, "--progress", "json", "-vv").returncode == 0
            for verb in (("status", "-o", "json"), ("status",), ("doctor", "-o", "json"), ("list", "-o", "json"),
                         ("wait", "-vv"), (*SIX, "-o", "env"), (*SIX, "-o", "json"), ("logs",)):  # fmt: skip
                assert run(*verb).returncode == 0, verb
            # Errors with everything that is known of them.
            port = containers.ports()[0]
            ask(port, "CONFIG", "SET", "requirepass", "other", password=MARK)
            run("doctor", "-vv")
            run(*SIX, "-vv", "--timeout", 5)
            ask(port, "CONFIG", "SET", "requirepass", MARK, password="other")
            if runtime == "docker":
                api = engine.api
                said += [json.dumps(each.attrs) for each in containers.containers()]
                said.append(json.dumps(api.inspect_network(containers.network_name)))
                said.append(json.dumps(api.volumes(filters={"label": f"{CLUSTER}={containers.name}"})))
                said += [each.logs().decode() for each in containers.containers()]
            files = [path for path in containers.command.root.rglob("*") if path.is_file()]
            kept = {path for path in files if MARK.encode() in path.read_bytes()}
        assert len(watch.seen) > 10
        assert [text for text in (*said, *watch.seen) if MARK in text] == []
        names = {re.sub(r".*secrets", "secrets", str(path.relative_to(containers.command.root))) for path in kept}
        configured = {f"{containers.name}/{containers.name}{index}/valkey.conf" for index in range(6)}
        assert names == {"secrets/password"} | (configured if runtime == "process" else set())
        assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
        containers.ok("delete")
    finally:
        remove(containers)
        end_servers(containers.command)
    containers.assert_nothing_left()
    assert not containers.command.root.exists() or list(containers.command.root.iterdir()) == []
