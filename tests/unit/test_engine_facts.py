"""Where an engine runs, seen from here, and what is taken there; read from what engines tell."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bootstrap.judging.evidence import Contact
from bootstrap.planning.addressing import Address
from bootstrap.planning.site import Engine, EnginePlace, ServerInfo, Version, server_of_tag
from bootstrap.planning.subnets import choose_network
from bootstrap.runtimes import addresses
from bootstrap.runtimes.dialling import LocalVantage
from bootstrap.runtimes.engine.archives import host_in, pack, unpack_one
from bootstrap.runtimes.engine.facts import endpoint, engine_place, subnets, taken_ports
from bootstrap.runtimes.engine.images import _note_layer, _split
from bootstrap.runtimes.engine.netns import NamespaceVantage
from bootstrap.runtimes.engine.sidecar import read_sign

SOCKET = "unix:///var/run/docker.sock"
LINUX = {"OperatingSystem": "Debian GNU/Linux 12 (bookworm)", "Name": "me", "SecurityOptions": ["name=seccomp"]}
DESKTOP = {"OperatingSystem": "Docker Desktop", "Name": "docker-desktop", "SecurityOptions": ["name=seccomp"]}
ROOTLESS = {**LINUX, "SecurityOptions": ["name=seccomp,profile=default", "name=rootless", "name=cgroupns"]}
SILENT = {"Name": "me", "SecurityOptions": None}
OURS = "0123456789ab"


@pytest.mark.parametrize(
    ("host", "info", "system", "inside", "place"),
    [
        (SOCKET, LINUX, "linux", False, "local"),
        (SOCKET, SILENT, "linux", False, "local"),
        # By a socket it is here, whatever it calls itself.
        (SOCKET, {**LINUX, "Name": "other"}, "linux", False, "local"),
        ("/run/docker.sock", {**LINUX, "Name": "other"}, "linux", False, "local"),
        ("npipe:////./pipe/docker_engine", {**LINUX, "Name": "other"}, "win32", False, "desktop"),
        # Asked over TCP, but on this very machine.
        ("tcp://127.0.0.1:2375", LINUX, "linux", False, "local"),
        ("unix:///run/user/1000/docker.sock", ROOTLESS, "linux", False, "rootless"),
        ("unix:///home/me/.docker/desktop/docker.sock", DESKTOP, "linux", False, "desktop"),
        (SOCKET, DESKTOP, "darwin", False, "desktop"),
        ("npipe:////./pipe/docker_engine", DESKTOP, "win32", False, "desktop"),
        ("tcp://127.0.0.1:2375", DESKTOP, "linux", False, "desktop"),
        # Colima, OrbStack, Rancher Desktop: a virtual machine that names no product.
        ("unix:///Users/me/.colima/docker.sock", {**LINUX, "Name": "colima"}, "darwin", False, "desktop"),
        ("tcp://10.0.0.9:2376", {**LINUX, "Name": "far"}, "linux", False, "remote"),
        ("ssh://far", {**LINUX, "Name": "far"}, "linux", False, "remote"),
        ("tcp://10.0.0.9:2376", {**LINUX, "Name": "far"}, "darwin", False, "remote"),
        # An engine in a container beside ours, by its name or address.
        ("tcp://docker:2376", {**LINUX, "Name": "b1946ac92492"}, "linux", True, "dind"),
        ("tcp://172.18.0.2:2375", {**LINUX, "Name": "b1946ac92492"}, "linux", True, "dind"),
        # From a container to some machine, and from a machine to an engine in a container.
        ("tcp://docker:2376", {**LINUX, "Name": "builder"}, "linux", True, "remote"),
        ("tcp://172.18.0.2:2375", {**LINUX, "Name": "b1946ac92492"}, "linux", False, "remote"),
        # The engine's socket mounted into a container, or an engine of its own in one.
        (SOCKET, {**LINUX, "Name": "outside"}, "linux", True, "nested"),
        (SOCKET, {**ROOTLESS, "Name": "outside"}, "linux", True, "nested"),
    ],
)
def test_where_an_engine_runs(host: str, info: dict[str, Any], system: str, inside: bool, place: EnginePlace) -> None:
    containers = ["f" * 64, OURS + "0" * 52] if inside else ["f" * 64]
    machine = OURS if inside else "me"
    assert engine_place(host, info, containers, machine=machine, system=system, contained=inside) == place


@pytest.mark.parametrize(("host", "name"), [(SOCKET, "me"), ("tcp://localhost:2375", "b1946ac92492")])
def test_an_engine_inside_a_container_is_local_there(host: str, name: str) -> None:
    info = {**LINUX, "Name": name}
    assert engine_place(host, info, ["f" * 64], machine=OURS, system="linux", contained=True) == "local"


def test_a_machine_that_is_called_like_a_container_is_no_container() -> None:
    found = engine_place(SOCKET, LINUX, [OURS + "0" * 52], machine=OURS, system="linux", contained=False)
    assert found == "local"


def test_docker_host_goes_before_the_usual_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2375")
    assert endpoint() == "tcp://far:2375"


def test_without_a_context_the_usual_socket_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert endpoint().endswith("/var/run/docker.sock")


def container(name: str, *ports: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {"Names": [f"/{name}"], "Labels": labels, "Ports": list(ports)}


def published(port: int, ip: str = "127.0.0.1", kind: str = "tcp") -> dict[str, Any]:
    return {"IP": ip, "PrivatePort": 80, "PublicPort": port, "Type": kind}


def test_published_ports_are_taken_by_name() -> None:
    ours = {"valkey-bootstrap.cluster": "valkey"}
    containers = [
        container("web", published(8080, "0.0.0.0"), published(8080, "::"), {"PrivatePort": 443, "Type": "tcp"}),
        container("valkey0", {"PublicPort": 6379}, **ours),
        container("valkey1", published(6380), published(16380, "172.28.0.1"), **ours),
        container("dns", published(53, kind="udp")),
        {**container("idle"), "Ports": None},
    ]
    assert taken_ports(containers, here=False) == {
        8080: "the container web",
        6379: 'the cluster "valkey"',
        6380: 'the cluster "valkey"',
        16380: 'the cluster "valkey"',
    }


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_what_listens_here_is_taken_where_the_engine_is_here(listener: int) -> None:
    assert listener in taken_ports([], here=True)
    assert listener not in taken_ports([], here=False)
    # The engine's own proxy listens, too: whose container it is says more.
    assert taken_ports([container("web", published(listener))], here=True)[listener] == "the container web"


def test_subnets_of_networks() -> None:
    def network(*subnets: str) -> dict[str, Any]:
        return {"IPAM": {"Config": [{"Subnet": each} for each in subnets]}}

    networks = [
        network("172.17.0.0/16"),
        network("172.28.0.0/26", "fd00::/64"),
        # Engines before 25 took it as it is.
        network("172.28.5.9/24"),
        {"IPAM": {"Config": None}},
        {"IPAM": {"Config": [{}]}},
    ]
    found = subnets(networks)
    assert found == {"172.17.0.0/16", "172.28.0.0/26", "fd00::/64", "172.28.5.0/24"}
    choose_network("valkey", 6, sorted(found))


def test_names_are_looked_up_as_this_machine_does() -> None:
    found = addresses.resolve(["localhost", "127.0.0.1", "nowhere.invalid", "192.0.2.77"])
    assert {name: each.whose for name, each in found.items()} == {
        "localhost": "loopback",
        "127.0.0.1": "loopback",
        "192.0.2.77": "elsewhere",
    }


def test_subnets_of_this_machine_can_be_planned_with() -> None:
    found = addresses.routed_subnets()
    assert "127.0.0.0/8" in found
    assert not any(each.endswith(("/0", "/0.0.0.0")) for each in found)
    choose_network("valkey", 6, found)


@pytest.mark.parametrize(
    ("version", "major"), [("28.2.2", 28), ("20.10.24+dfsg1", 20), ("4.9.3", 4), ("", 0), ("dev", 0)]
)
def test_the_major_version_of_an_engine(version: str, major: int) -> None:
    assert Engine("local", version).major == major


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("valkey", ("valkey", "latest")),
        ("valkey:9.1", ("valkey", "9.1")),
        ("valkey/valkey", ("valkey/valkey", "latest")),
        ("valkey/valkey:9.1", ("valkey/valkey", "9.1")),
        ("localhost:5000/valkey", ("localhost:5000/valkey", "latest")),
        ("localhost:5000/a/valkey:9.1-alpine", ("localhost:5000/a/valkey", "9.1-alpine")),
        ("ghcr.io/valkey-io/valkey:8.1", ("ghcr.io/valkey-io/valkey", "8.1")),
        ("valkey@sha256:" + "a" * 64, ("valkey@sha256:" + "a" * 64, None)),
        ("localhost:5000/valkey:9.1@sha256:" + "a" * 64, ("localhost:5000/valkey:9.1@sha256:" + "a" * 64, None)),
    ],
)
def test_image_names_are_split(image: str, parts: tuple[str, str | None]) -> None:
    # Without a tag the SDK would pull every tag that there is.
    assert _split(image) == parts


@pytest.mark.parametrize(
    ("image", "flavor", "version"),
    [
        ("valkey/valkey:9.1", "valkey", (9, 1, 0)),
        ("valkey/valkey:8.1.3-alpine", "valkey", (8, 1, 3)),
        ("valkey:9", "valkey", (9, 0, 0)),
        ("redis:7.0.15-bookworm", "redis", (7, 0, 15)),
        ("localhost:5000/mirror/valkey:v8.0", "valkey", (8, 0, 0)),
        ("valkey/valkey-bundle:9.0", "valkey", (9, 0, 0)),
        ("valkey/valkey:8.1@sha256:" + "a" * 64, "valkey", (8, 1, 0)),
    ],
)
def test_a_tag_tells_the_server(image: str, flavor: Any, version: Version) -> None:
    assert server_of_tag(image) == ServerInfo(flavor, version, image, "by its tag")


@pytest.mark.parametrize(
    "image", ["valkey/valkey", "valkey/valkey:latest", "valkey:unstable", "debian:12", "localhost:5000/debian:12"]
)
def test_a_tag_that_tells_nothing(image: str) -> None:
    assert server_of_tag(image) is None


# Lines of a pull, as an engine streams them.
PULL: list[tuple[dict[str, Any], bool, dict[str, tuple[int, int]]]] = [
    ({"status": "Pulling from valkey/valkey", "id": "9.1"}, False, {}),
    ({"status": "Pulling fs layer", "progressDetail": {}, "id": "a"}, True, {"a": (0, 0)}),
    ({"status": "Already exists", "progressDetail": {}, "id": "b"}, True, {"a": (0, 0), "b": (1, 1)}),
    ({"status": "Waiting", "progressDetail": {}, "id": "a"}, False, {"a": (0, 0), "b": (1, 1)}),
    (
        {"status": "Downloading", "progressDetail": {"current": 40, "total": 100}, "id": "a"},
        True,
        {"a": (40, 100), "b": (1, 1)},
    ),
    (
        {"status": "Downloading", "progressDetail": {"current": 100, "total": 100}, "id": "a"},
        True,
        {"a": (99, 100), "b": (1, 1)},
    ),
    ({"status": "Verifying Checksum", "progressDetail": {}, "id": "a"}, False, {"a": (99, 100), "b": (1, 1)}),
    (
        {"status": "Extracting", "progressDetail": {"current": 50, "total": 100}, "id": "a"},
        False,
        {"a": (99, 100), "b": (1, 1)},
    ),
    # A second one does not begin again, and one of unknown size is none yet.
    ({"status": "Pulling fs layer", "progressDetail": {}, "id": "a"}, True, {"a": (99, 100), "b": (1, 1)}),
    ({"status": "Downloading", "progressDetail": {"current": 5}, "id": "a"}, False, {"a": (99, 100), "b": (1, 1)}),
    ({"status": "Pull complete", "progressDetail": {}, "id": "a"}, True, {"a": (100, 100), "b": (1, 1)}),
    ({"status": "Digest: sha256:0"}, False, {"a": (100, 100), "b": (1, 1)}),
    ({"status": "Status: Downloaded newer image"}, False, {"a": (100, 100), "b": (1, 1)}),
    ({}, False, {"a": (100, 100), "b": (1, 1)}),
]


def test_the_progress_of_a_pull() -> None:
    layers: dict[str, tuple[int, int]] = {}
    for told, noted, then in PULL:
        assert _note_layer(told, layers) == noted, told
        assert layers == then


HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost
# 10.0.0.1 commented.out
172.17.0.1\thost-gateway.valkey-bootstrap # 10.0.0.2 in.a.comment

172.28.0.2\tvalkey0 alias
"""


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("localhost", "127.0.0.1"),
        ("ip6-localhost", "::1"),
        ("host-gateway.valkey-bootstrap", "172.17.0.1"),
        ("alias", "172.28.0.2"),
        ("commented.out", None),
        ("in.a.comment", None),
        ("valkey", None),
        ("127.0.0.1", None),
    ],
)
def test_a_name_in_the_hosts_of_a_container(name: str, address: str | None) -> None:
    assert host_in(HOSTS, name) == address


def test_archives_hold_what_was_packed_for_the_server_alone() -> None:
    import io
    import tarfile

    packed = pack("data/server", {"valkey.conf": b'port "6379"\n', "secret": b"\x00\xff"})
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        entries = {each.name: (each.mode, each.uid, each.gid) for each in archive}
    assert entries == {
        "data": (0o755, 0, 0),
        "data/server": (0o700, 999, 999),
        "data/server/valkey.conf": (0o400, 999, 999),
        "data/server/secret": (0o400, 999, 999),
    }
    assert unpack_one([packed[:700], packed[700:]]) == b'port "6379"\n'


def test_an_archive_without_a_file() -> None:
    with pytest.raises(ValueError, match="holds no file"):
        unpack_one([pack("server", {})])


async def test_a_vantage_that_cannot_be_entered_reaches_nothing(listener: int) -> None:
    for vantage in (NamespaceVantage("nowhere", "", lambda: None), NamespaceVantage("nowhere", "", 2**22 + 1)):
        assert await vantage.dial("127.0.0.1", listener, timeout=1) == Contact("unreachable")


async def test_this_machine_as_a_vantage(listener: int) -> None:
    here = LocalVantage()
    assert await here.dial("127.0.0.1", listener, timeout=5) == Contact("open")
    assert await here.dial("localhost", listener, timeout=5) == Contact("open")
    assert await here.dial("nowhere.invalid", listener, timeout=5) == Contact("unresolvable")
    with socket.socket() as bound:
        # Bound, so that nobody else takes it, and not listening.
        bound.bind(("127.0.0.1", 0))
        shut = Address("127.0.0.1", bound.getsockname()[1])
        assert await here.dial(shut.host, shut.port, timeout=5) == Contact("refused")


@pytest.mark.parametrize(
    ("line", "contact"),
    [
        ("Connecting to PRIMARY 10.0.0.2:6379", None),
        ("Non blocking connect for SYNC fired the event.", None),
        ("Primary replied to PING, replication can continue...", Contact("open")),
        ("Master replied to PING, replication can continue...", Contact("open")),
        ("Failed to read response from the server: Connection reset by peer", Contact("open")),
        ("Error condition on socket for SYNC: Connection refused", Contact("refused")),
        ("Error condition on socket for SYNC: No route to host", Contact("unreachable")),
        ("Timeout connecting to the PRIMARY...", Contact("silent")),
        ("Unable to connect to MASTER: No such file or directory", Contact("unresolvable")),
        (
            "Error reply to PING from primary: '-DENIED Running in protected mode'",
            Contact("open", "-DENIED Running in protected mode"),
        ),
    ],
)
def test_what_a_server_that_dials_logs(line: str, contact: Contact | None) -> None:
    assert read_sign(f"1:S 23 Nov 2026 10:00:00.000 * Ready to accept connections unix\n1:S ... * {line}\n") == contact
