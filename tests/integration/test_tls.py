"""Clusters that speak TLS alone: made, used, renewed, and what is wrong with certificates."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
import redis

import bootstrap
from bootstrap.operations.certificates import Pair, hosts_of, make_authority, make_certificate

from .conftest import Command, end_servers, find_server, free_block, until
from .containers import Containers, make, remove, run_inside
from .libraries import keys_through, printed_by
from .verdicts import check, finding_in, plain

pytestmark = pytest.mark.servers

GIVEN = os.environ.get("VALKEY_BOOTSTRAP_TESTS_TLS_SERVER", "")
"""The path of a Valkey server with TLS, as `scripts/tls-server` makes one: those of the wheels have none."""
SERVERS = {"redis-7.0": "", **({"valkey-tls": GIVEN} if GIVEN else {})}


def server_with_tls(version: str) -> str:
    return SERVERS[version] or find_server(version)


SIX = ("--nodes", 6, "--replicas", 1)
KEYS = 1000
LIBRARIES = ("redis-py", "valkey-py", "ioredis", "iovalkey")


class Tls:
    """A cluster of local processes, with a password."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.document: dict[str, Any] = command.json("status")
        self.ports = [int(node["addresses"]["host"].rpartition(":")[2]) for node in self.document["nodes"]]

    @property
    def secrets(self) -> Path:
        return Path(self.document["tls"]["ca_file"]).parent

    @property
    def password(self) -> str:
        return (self.secrets / "password").read_text()

    @property
    def authority(self) -> Pair:
        return Pair((self.secrets / "ca.crt").read_bytes(), (self.secrets / "ca.key").read_bytes())

    def client(self, port: int) -> redis.Redis:
        ca = str(self.secrets / "ca.crt")
        return redis.Redis(port=port, ssl=True, ssl_ca_certs=ca, password=self.password, decode_responses=True)

    def shown(self, port: int) -> bytes:
        """The certificate that a server shows."""
        return ssl.get_server_certificate(("127.0.0.1", port)).encode()

    def show(self, index: int, pair: Pair) -> None:
        """Let a server show another certificate."""
        folder = self.command.root / "valkey" / f"valkey{index}"
        with self.client(self.ports[index]) as client:
            for name, content in (("node.crt", pair.certificate), ("node.key", pair.key)):
                (folder / name).write_bytes(content)
            client.execute_command("CONFIG", "SET", "tls-cert-file", "node.crt", "tls-key-file", "node.key")

    def causes(self) -> set[tuple[str | None, str]]:
        document = json.loads(self.command("doctor", "-o", "json").stdout)
        return {(each["node"], each["cause"]) for each in document["findings"] if each["level"] == "error"}

    def documented(self, cause: str, title: str) -> None:
        """Compare what the doctor prints with docs/troubleshooting.md."""
        check(cause, title, plain(finding_in(self.command("doctor").stdout, cause), {}, self.ports))


@pytest.fixture(
    scope="module",
    params=[pytest.param(version, marks=pytest.mark.xdist_group(f"tls-{version}")) for version in SERVERS],
)
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    command = Command(tmp_path_factory.mktemp("tls") / "state")
    server = server_with_tls(request.param)
    try:
        command.ok(*SIX, "--tls", "--generate-password", "--base-port", "auto", "--server", server)
        yield Tls(command)
        command.ok("delete")
        command.assert_nothing_left()
    finally:
        end_servers(command)


def test_nothing_is_spoken_plainly(tls: Tls) -> None:
    listening = {
        each.laddr.port for process in tls.command.processes() for each in process.net_connections() if
        each.status == "LISTEN"
    }  # fmt: skip
    assert listening == {port + offset for port in tls.ports for offset in (0, 10000)}
    for port in listening:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(b"PING\r\n")
            with suppress(ConnectionResetError):
                assert b"PONG" not in plain.recv(100)
    with tls.client(tls.ports[0]) as client:
        config = client.config_get("tls-*")
    assert (config["tls-cluster"], config["tls-replication"]) == ("yes", "yes")


def test_every_verb_speaks_it(tls: Tls) -> None:
    assert tls.document["health"] == "ok"
    tls.command.ok("wait", "--timeout", 10)
    assert tls.command.ok("doctor").endswith("is healthy: 6 nodes\n")
    assert "nothing was changed" in tls.command(*SIX).stderr
    assert "nothing was changed" in tls.command(*SIX, "--tls").stderr
    ca, password = ("--tls-ca", tls.secrets / "ca.crt"), ("--password-file", tls.secrets / "password")
    where = f"127.0.0.1:{tls.ports[3]}"
    for verb in ("status", "wait", "doctor"):
        tls.command.ok(verb, where, *ca, *password)
    assert "(certificate)" in tls.command.fails(5, "status", where, "--tls", *password)
    assert "if it wants TLS, add --tls" in tls.command.fails(5, "status", where, *password)


@pytest.mark.parametrize("library", LIBRARIES)
def test_clients_speak_it(tls: Tls, library: str) -> None:
    argv = keys_through(library, ("127.0.0.1", tls.ports[0]), library, KEYS)
    assert printed_by(argv, KEYS_PASSWORD=tls.password, KEYS_CA=str(tls.secrets / "ca.crt")) == f"{KEYS}\n"


def test_a_server_that_ended_is_started_with_its_certificate(tls: Tls) -> None:
    before = tls.shown(tls.ports[4])
    next(each for each in tls.command.processes() if Path(each.cwd()).name == "valkey4").kill()
    until(lambda: tls.command("status", "--exit-code").returncode == 7)
    tls.command.ok(*SIX)
    tls.command.ok("status", "--exit-code")
    assert tls.shown(tls.ports[4]) == before


def test_a_certificate_is_for_every_address(tls: Tls) -> None:
    assert hosts_of(tls.shown(tls.ports[1])) == {"127.0.0.1", "::1", "localhost"}


def settled(tls: Tls) -> None:
    """Nothing is wrong any more."""
    causes: set[Any] = set()

    def clean() -> bool:
        nonlocal causes
        causes = tls.causes()
        return not causes

    try:
        until(clean, 60)
    except AssertionError:
        pytest.fail(f"{causes}\n{tls.command('doctor').stdout}")


def keep(tls: Tls, index: int, pair: Pair) -> None:
    (tls.secrets / f"valkey{index}.crt").write_bytes(pair.certificate)
    (tls.secrets / f"valkey{index}.key").write_bytes(pair.key)


def test_one_that_ends_soon_is_renewed_by_the_same_command(tls: Tls) -> None:
    keep(tls, 1, make_certificate(tls.authority, "valkey1", ["127.0.0.1", "localhost", "::1"], days=20))
    before = [tls.shown(port) for port in tls.ports]
    assert "Renewed 1 certificate" in tls.command(*SIX).stderr
    after = [tls.shown(port) for port in tls.ports]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True, True, True, True]
    assert after[1] == (tls.secrets / "valkey1.crt").read_bytes()
    assert tls.causes() == set()


def test_one_that_has_expired_is_found_and_renewed(tls: Tls) -> None:
    ended = make_certificate(tls.authority, "valkey2", ["127.0.0.1"], days=0.01)
    keep(tls, 2, ended)
    tls.show(2, ended)
    assert ("valkey2", "certificate-expired") in tls.causes()
    tls.documented("certificate-expired", "a certificate has expired")
    tls.command.ok(*SIX)
    assert tls.causes() == set()


@pytest.mark.parametrize(
    ("hosts", "trusted", "cause", "title"),
    [
        (["192.0.2.1"], True, "certificate-name", "a certificate is for another name or address"),
        (["127.0.0.1"], False, "certificate-authority", "a certificate is signed by somebody else"),
    ],
)
def test_a_certificate_that_is_not_accepted(tls: Tls, hosts: list[str], trusted: bool, cause: str, title: str) -> None:
    kept = tls.command.root / "valkey" / "valkey5"
    before = Pair((kept / "node.crt").read_bytes(), (kept / "node.key").read_bytes())
    tls.show(5, make_certificate(tls.authority if trusted else make_authority("other"), "valkey5", hosts))
    assert ("valkey5", cause) in tls.causes()
    tls.documented(cause, title)
    # Its own again: clients that do not look at names are let in for that.
    (kept / "node.crt").write_bytes(before.certificate)
    (kept / "node.key").write_bytes(before.key)
    with redis.Redis(port=tls.ports[5], ssl=True, ssl_cert_reqs="none", password=tls.password) as client:
        client.execute_command("CONFIG", "SET", "tls-cert-file", "node.crt", "tls-key-file", "node.key")
    settled(tls)


def test_tls_on_one_side_only(tls: Tls) -> None:
    with tls.client(tls.ports[3]) as client:
        client.execute_command("CONFIG", "SET", "tls-port", "0", "port", tls.ports[3])
    assert ("valkey3", "tls-one-side") in tls.causes()
    tls.documented("tls-one-side", "one node does not speak TLS")
    with redis.Redis(port=tls.ports[3], password=tls.password) as client:
        client.execute_command("CONFIG", "SET", "port", "0", "tls-port", tls.ports[3])
    settled(tls)


# Certificates that are given.


def given(folder: Path, *hosts: str) -> tuple[tuple[str, Path], ...]:
    authority = make_authority("given")
    made = make_certificate(authority, "any", hosts)
    files = {"ca": authority.certificate, "cert": made.certificate, "key": made.key}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return tuple((f"--tls-{name}", folder / name) for name in files)


@pytest.mark.parametrize("version", SERVERS)
def test_certificates_that_are_given(command: Command, tmp_path: Path, version: str) -> None:
    flags = [word for pair in given(tmp_path, "127.0.0.1") for word in pair]
    command.ok(*SIX, *flags, "--base-port", "auto", "--server", server_with_tls(version))
    made = command.json("status")
    port = int(made["nodes"][0]["addresses"]["host"].rpartition(":")[2])
    assert ssl.get_server_certificate(("127.0.0.1", port)).encode() == (tmp_path / "cert").read_bytes()
    command.ok("doctor")
    assert "nothing was changed" in command(*SIX).stderr
    # Another one, of another authority: all servers show it then.
    (tmp_path / "new").mkdir()
    others = [word for pair in given(tmp_path / "new", "127.0.0.1") for word in pair]
    done = command(*SIX, *others)
    assert done.returncode == 0, done.stderr
    assert "Renewed 6 certificates" in done.stderr
    assert ssl.get_server_certificate(("127.0.0.1", port)).encode() == (tmp_path / "new" / "cert").read_bytes()
    assert command.ok("doctor").endswith("is healthy: 6 nodes\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tls-ca",), "--tls-cert and --tls-key is missing"),
        (("--tls-ca", "--tls-cert", "--tls-key"), "the certificate is not for 127.0.0.1"),
    ],
)
def test_certificates_that_do_not_do(command: Command, tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    chosen = [word for name, path in given(tmp_path, "example.org") if name in flags for word in (name, path)]
    assert words in command.fails(2, *SIX, *chosen, "--server", find_server("redis-7.0"), "--base-port", "auto")
    command.assert_nothing_left()


def test_a_server_without_tls(command: Command) -> None:
    told = command.fails(5, *SIX, "--tls", "--server", find_server("valkey-9.1"), "--base-port", "auto")
    assert "it was built without TLS (server-no-tls)" in told
    assert "take a server with TLS by --server" in told
    command.assert_nothing_left()


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Servers of somebody else, which want to be shown certificates: their addresses, and flags for them."""
    authority = make_authority("theirs")
    (tmp_path / "ca").write_bytes(authority.certificate)
    started, ports = [], [free_block(1) for _ in range(3)]
    try:
        for port in ports:
            folder = tmp_path / str(port)
            folder.mkdir()
            pair = make_certificate(authority, "theirs", ["127.0.0.1"])
            (folder / "cert").write_bytes(pair.certificate)
            (folder / "key").write_bytes(pair.key)
            settings = {
                "port": 0, "tls-port": port, "tls-cluster": "yes", "tls-replication": "yes", "cluster-enabled": "yes",
                "tls-cert-file": folder / "cert", "tls-key-file": folder / "key", "tls-ca-cert-file": tmp_path / "ca",
                "dir": folder, "save": "",
            }  # fmt: skip
            words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
            with (folder / "log").open("wb") as log:
                started.append(subprocess.Popen([find_server("redis-7.0"), *words], stdout=log))
        shown = tmp_path / str(ports[0])
        flags = ["--tls-ca", tmp_path / "ca", "--tls-cert", shown / "cert", "--tls-key", shown / "key"]
        yield [f"127.0.0.1:{port}" for port in ports], list(map(str, flags))
    finally:
        for each in started:
            each.kill()
            each.wait()


def test_servers_of_somebody_else(command: Command, theirs: tuple[list[str], list[str]]) -> None:
    where, flags = theirs
    until(lambda: command("status", where[2], *flags).returncode == 0)
    made = command.ok("form", *where, *flags)
    line = next(line for line in made.splitlines() if line.startswith("python "))
    program = f"import redis.cluster\nprint({line.split(maxsplit=1)[1]}.set('key', 'value'))"
    assert printed_by([sys.executable, "-c", program]) == "True\n"
    assert " ".join(["--tls", *flags]).replace("--tls-", "--").replace("--ca", "--cacert") in made
    assert command.ok("doctor", where[1], *flags) == f'Cluster "{where[1]}" is healthy: 3 nodes\n'
    told = command.fails(5, "status", where[0], *flags[:2])
    assert "hangs up, as servers do that want to be shown a certificate (--tls-cert, --tls-key)" in told


async def test_as_a_library() -> None:
    server = find_server("redis-7.0")
    async with bootstrap.cluster(nodes=3, replicas=0, runtime="process", server=server, tls=True, login="x") as made:
        kwargs = made.connection_kwargs()
        assert kwargs["ssl"] is True
        assert kwargs.keys() == {"host", "port", "ssl", "ssl_ca_certs", "password"}
        client = made.client(decode_responses=True)
        assert await client.set("key", "value")
        assert await client.get("key") == "value"
        await client.aclose()
        assert (await made.doctor()).healthy
        where = str(made.endpoints()[1])
        ca = await anyio.Path(kwargs["ssl_ca_certs"]).read_text()
        theirs = await bootstrap.attach(where, password="x", ca=ca)
        assert (await theirs.status()).healthy
        assert theirs.connection_kwargs().keys() == {"host", "port", "ssl", "ssl_ca_data", "password"}


# Containers.


@pytest.fixture(scope="module", params=["fixed-address", "gateway", "same-port"])
def contained(
    request: pytest.FixtureRequest, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containers]:
    containers = make(engine, tmp_path_factory.mktemp("tls-contained") / "state", "redis-7.0")
    try:
        containers.ok(*SIX, "--tls", "--generate-password", "--announce", request.param)
        yield containers
        containers.ok("delete")
        containers.assert_nothing_left()
        assert not containers.command.root.exists()
    finally:
        remove(containers)


@pytest.mark.docker
def test_containers_speak_it(contained: Containers) -> None:
    document = contained.json("status")
    secrets = Path(document["tls"]["ca_file"]).parent
    variables = {"KEYS_PASSWORD": (secrets / "password").read_text(), "KEYS_CA": str(secrets / "ca.crt")}
    first = document["nodes"][0]["addresses"]
    port = int(first["host"].rpartition(":")[2])
    for library in ("redis-py", "valkey-py", "ioredis"):
        argv = keys_through(library, ("127.0.0.1", port), f"{library}-here", KEYS)
        assert printed_by(argv, **variables) == f"{KEYS}\n"
    if first["network"]:
        host = first["network"].rpartition(":")[0]
        for library in ("redis-py", "ioredis"):
            argv = keys_through(library, (host, port), f"{library}-inside", KEYS)
            where: dict[str, Any] = {"network": contained.network_name, "variables": variables}
            assert run_inside(contained, argv, mounts=[str(secrets)], **where) == f"{KEYS}\n"
    assert contained.ok("doctor").endswith("is healthy: 6 nodes\n")
    contained.container(2).kill()
    assert contained("status", "--exit-code").returncode == 7
    contained.ok(*SIX)
    contained.ok("status", "--exit-code")
