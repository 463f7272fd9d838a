"""`export`: what it prints is run as it is, through client libraries that nobody here wrote."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

import bootstrap
from bootstrap import Address, Contact
from bootstrap.exports.clients import CLIENTS as ALL

from .conftest import Command, end_servers, find_server
from .containers import Containers, make, remove, run_inside
from .libraries import CLIENTS, SNIPPETS, node_program, printed_by, snippet_command

pytestmark = pytest.mark.servers

THREE = ("--nodes", 3, "--replicas", 0)
KINDS = {
    "plain": ("valkey-9.1", ()),
    "protected": ("redis-7.0", ("--tls", "--generate-password", "--user", "app")),
}
GROUPS = [pytest.param(kind, marks=pytest.mark.xdist_group(f"export-{kind}")) for kind in KINDS]


@pytest.fixture(scope="module", params=GROUPS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Local processes; the state root has a space in its name."""
    version, flags = KINDS[request.param]
    command = Command(tmp_path_factory.mktemp("export") / "the state", {"VALKEY_BOOTSTRAP_NAME": request.param})
    try:
        command.ok(*THREE, *flags, "--base-port", "auto", "--server", find_server(version))
        yield command
        command.ok("delete")
        command.assert_nothing_left()
    finally:
        end_servers(command)


@pytest.mark.parametrize("library", SNIPPETS)
def test_it_runs_as_it_is(cluster: Command, library: str) -> None:
    text = cluster.ok("export", "--client", library)
    assert printed_by(snippet_command(library, text)) == "value\n"


async def test_it_has_the_files_and_never_the_password(cluster: Command) -> None:
    name = cluster.environment["VALKEY_BOOTSTRAP_NAME"]
    found = await bootstrap.attach(name, runtime="process", state_root=str(cluster.root))
    status = await found.status()
    assert (status.user, status.tls) == (("app", True) if name == "protected" else (None, False))
    files = {status.password_file, status.ca_file} - {""}
    secret = found.connection_kwargs().get("password", "no password")
    for library in ALL:
        text = bootstrap.snippet(library, status)
        assert secret not in text
        assert all(file in text for file in files)
        assert "copy or mount" not in text
        beside = bootstrap.snippet(library, status, "network")
        assert ("copy or mount" in beside) == bool(files)
    document = cluster.json("export", name, "--client", "lettuce", "--audience", "network")
    assert document == {
        "format_version": 1,
        "name": name,
        "client": "lettuce",
        "audience": "network",
        "snippet": bootstrap.snippet("lettuce", status, "network"),
    }


def test_a_cluster_by_its_addresses_with_what_was_given(cluster: Command, tmp_path: Path) -> None:
    status = cluster.json("status")
    where = status["nodes"][1]["addresses"]["host"]
    if not status["login"]:
        text = cluster.ok("export", where)
        assert printed_by(snippet_command("redis-py", text)) == "value\n"
        return
    # Of a file with more lines the first is the password.
    secret, file = Path(status["login"]["password_file"]).read_text(), tmp_path / "first line"
    file.write_text(f"{secret}\nsecond\n")
    trust = ("--tls-ca", status["tls"]["ca_file"], "--user", "app")
    for library in ("redis-py", "ioredis"):
        text = cluster.ok("export", where, *trust, "--password-file", file, "--client", library)
        assert str(file) in text
        assert printed_by(snippet_command(library, text)) == "value\n"
    # One of the environment is in no file: programs have a variable of their own for it.
    text = Command(cluster.root, {"VALKEY_BOOTSTRAP_PASSWORD": secret}).ok("export", where, *trust)
    assert printed_by(snippet_command("redis-py", text), VALKEY_PASSWORD=secret) == "value\n"


def test_nothing_is_there(command: Command) -> None:
    assert "there is no cluster (no-such-cluster)" in command.fails(2, "export")
    assert "'phpredis' is not one of" in command.fails(2, "export", "--client", "phpredis")


def test_node_js_can_read_it() -> None:
    """With everything that there can be, since not all of it is on a cluster here."""
    here, told = Address("::1", 7001), Address("172.28.0.2", 6379)
    login: dict[str, Any] = {"user": "app", "password_file": '/a "place"/password'}
    contacts = [
        Contact((here, told), remap, **(login if named else {"user": "default"}), tls=tls, ca_file=ca, elsewhere=named)
        for remap, named, (tls, ca) in itertools.product(
            ({}, {told: here}), (True, False), ((False, ""), (True, ""), (True, None), (True, "/ca.crt"))
        )
    ]
    texts = [bootstrap.snippet(library, each) for library in ("ioredis", "iovalkey") for each in contacts]
    reader = "for (const text of JSON.parse(require('fs').readFileSync(0))) new (require('vm').Script)(text);"
    subprocess.run([node_program(), "-e", reader], input=json.dumps(texts), text=True, check=True, timeout=30)


# Containers.


@pytest.fixture(scope="module")
def contained(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    containers = make(engine, tmp_path_factory.mktemp("export-contained") / "state", "redis-7.0")
    try:
        containers.ok(*THREE, "--tls", "--generate-password")
        yield containers
        containers.ok("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


@pytest.mark.docker
@pytest.mark.xdist_group("export-contained")
@pytest.mark.parametrize("library", ["redis-py", "ioredis"])
def test_both_audiences_of_containers(contained: Containers, library: str) -> None:
    status = contained.json("status")
    inside: dict[str, Any] = {
        "network": contained.network_name,
        # Its files are where the comment asks for them.
        "mounts": [str(Path(status["tls"]["ca_file"]).parent)],
        "variables": {"NODE_PATH": str(CLIENTS / "node_modules")},
    }
    text = contained.ok("export", "--client", library)
    assert printed_by(snippet_command(library, text)) == "value\n"
    text = contained.ok("export", "--client", library, "--audience", "network")
    assert f'"{status["nodes"][0]["name"]}"' in text
    assert "127.0.0.1" not in text
    assert "copy or mount" in text
    assert run_inside(contained, snippet_command(library, text), **inside) == "value\n"
