"""Who can reach a cluster in containers: what listens on this machine, and what a neighbour gets to.

The neighbour is a network namespace behind a veth pair, which sends everything to this machine: a machine of the same
network segment that was given a route to the containers.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest

from .conftest import require_root
from .containers import Containers, announced_by, make, mapped_name, remove
from .libraries import keys_through, printed_by

# One group for all that touches interfaces or the firewall.
pytestmark = [
    pytest.mark.servers,
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.xdist_group("firewall"),
]

WAYS = [
    ("fixed-address", True),
    ("fixed-address", False),
    ("gateway", True),
    ("gateway", False),
    ("host-name", True),
    ("client-address", True),
    ("same-port", True),
]
NEIGHBOUR_NOTE = "a neighbour that routes to the containers' network"
VETH = f"vbn{os.getpid()}a"
"""This machine's end of the way to the neighbour."""
DIAL = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def dial(target):
    try:
        with socket.create_connection((target[0], target[1]), 1.5):
            return "open"
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "unreachable"

targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(dial, targets))))
"""


@dataclass(frozen=True, slots=True)
class Exposed:
    """A cluster of three nodes, and what listened on this machine before and after it was made."""

    containers: Containers
    strategy: str
    publish: bool
    told: str
    ports: list[int]
    gateway: str
    addresses: list[str]
    before: set[tuple[str, int]]
    after: set[tuple[str, int]]

    @property
    def bus(self) -> list[int]:
        return [port + 10000 for port in self.ports]


def listeners() -> set[tuple[str, int]]:
    """What listens on TCP ports of this machine."""
    done = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True)
    rows = [line.split()[3].rpartition(":") for line in done.stdout.splitlines()]
    return {(host, int(port)) for host, _, port in rows}


def host_gateway(engine: docker.DockerClient) -> str:
    """The address of docker0; the engine does not tell it before it was started a second time."""
    bridge = engine.api.inspect_network("bridge")["Options"]["com.docker.network.bridge.name"]
    return next(each.address for each in psutil.net_if_addrs()[bridge] if each.family == socket.AF_INET)


@pytest.fixture(
    scope="module", params=WAYS, ids=lambda way: way[0] if way[1] else f"{way[0]}-no-publish"
)  # fmt: skip
def exposed(
    request: pytest.FixtureRequest, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exposed]:
    require_root()
    strategy, publish = request.param
    containers = make(engine, tmp_path_factory.mktemp("exposed") / "state")
    try:
        before = listeners()
        flags = [*announced_by(strategy, request).flags, *([] if publish else ["--no-publish"])]
        done = containers("--nodes", 3, "--replicas", 0, *flags)
        assert done.returncode == 0, done.stderr
        after = listeners()
        network = engine.api.inspect_network(containers.network_name)
        inside = [each["IPv4Address"].partition("/")[0] for each in network["Containers"].values()]
        gateway = network["IPAM"]["Config"][0]["Gateway"]
        yield Exposed(
            containers, strategy, publish, done.stderr, containers.ports(), gateway, sorted(inside), before, after
        )
        containers.ok("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


def listening_expected(exposed: Exposed) -> set[tuple[str, int]]:
    """What may listen: data ports on the loopback interface; data and bus ports where containers find them."""
    data, bus = exposed.ports, exposed.bus
    local = {("127.0.0.1", port) for port in data}
    match exposed.strategy:
        case "fixed-address":
            return local if exposed.publish else set()
        case "gateway":
            return {(exposed.gateway, port) for port in (*data, *bus)} | (local if exposed.publish else set())
        case "host-name":
            # The name leads to 127.0.0.1, and is the only way there is for clients of this machine.
            inside = host_gateway(exposed.containers.engine)
            return {(inside, port) for port in (*data, *bus)} | local
        case _:
            return local


def test_what_listens_on_this_machine(exposed: Exposed) -> None:
    block = {*exposed.ports, *exposed.bus}
    expected = listening_expected(exposed)
    if exposed.publish or exposed.strategy != "fixed-address":
        assert {each for each in exposed.before if each[1] in block} == set()
        assert {each for each in exposed.after if each[1] in block} == expected
    # Others work at the same time; what is ours beyond the block, the engine must know.
    bindings = [
        (where["HostIp"], int(where["HostPort"]))
        for each in exposed.containers.containers()
        for published in each.attrs["NetworkSettings"]["Ports"].values()
        for where in published or ()
    ]
    assert sorted(bindings) == sorted(expected)
    own = {
        address.address.partition("%")[0]
        for name, found in psutil.net_if_addrs().items()
        if not name.startswith(("lo", "docker", "br-"))
        for address in found
    }
    assert {host for host, _ in bindings}.isdisjoint({*own, "0.0.0.0", "::", "*", ""})


@contextmanager
def neighbour() -> Iterator[str]:
    """The name of a network namespace whose way to everywhere is this machine."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    name, here, there = f"vbn-{os.getpid()}", VETH, f"vbn{os.getpid()}b"
    # 198.18.0.0/15 is for measurements (RFC 2544): nobody has it.
    net = f"198.18.{os.getpid() % 256}.{4 * (worker % 64)}"
    ours, theirs = (f"{net.rpartition('.')[0]}.{int(net.rpartition('.')[2]) + at}" for at in (1, 2))
    inside = ("ip", "-n", name)
    try:
        for words in (
            ("ip", "netns", "add", name),
            ("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name),
            ("ip", "address", "add", f"{ours}/30", "dev", here),
            ("ip", "link", "set", here, "up"),
            (*inside, "address", "add", f"{theirs}/30", "dev", there),
            (*inside, "link", "set", there, "up"),
            (*inside, "route", "add", "default", "via", ours),
            # Without an interface of its own for them, packets to 127.0.0.1 take that way, too.
            ("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.conf.{there}.route_localnet=1"),
            (*inside, "route", "add", "127.0.0.0/8", "via", ours),
        ):
            subprocess.run(words, check=True, capture_output=True, timeout=10)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", here], check=False, capture_output=True, timeout=10)
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=10)


def dial_from(namespace: str, targets: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    words = ["ip", "netns", "exec", namespace, sys.executable, "-c", DIAL, json.dumps(targets)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    return dict(zip(targets, json.loads(done.stdout), strict=True))


def targets_of(exposed: Exposed) -> dict[str, list[tuple[str, int]]]:
    """All the ways in that a neighbour could try."""
    data, bus = exposed.ports, exposed.bus
    own = [
        address.address
        for name, found in psutil.net_if_addrs().items()
        if name.startswith(("eth", "en", "vbn"))
        for address in found
        if address.family.name == "AF_INET"
    ]
    inside = host_gateway(exposed.containers.engine)
    return {
        "container data": list(zip(exposed.addresses, data, strict=True)),
        "container bus": list(zip(exposed.addresses, bus, strict=True)),
        "gateway data": [(exposed.gateway, port) for port in data],
        "gateway bus": [(exposed.gateway, port) for port in bus],
        "docker0 data": [(inside, port) for port in data],
        "docker0 bus": [(inside, port) for port in bus],
        "127.0.0.1 data": [("127.0.0.1", port) for port in data],
        "127.0.0.1 bus": [("127.0.0.1", port) for port in bus],
        "own addresses": [(address, port) for address in own for port in (*data, *bus)],
    }


def reached(exposed: Exposed, *, closed: str = "") -> dict[str, str]:
    """What a neighbour finds, by way in; the same for all ports of one; `closed` is a network that it is kept from."""
    targets = targets_of(exposed)
    with neighbour() as namespace, dropped(closed) if closed else nullcontext():
        found = dial_from(namespace, [each for way in targets.values() for each in way])
    outcomes = {way: {found[each] for each in ports} for way, ports in targets.items()}
    assert {way: len(each) for way, each in outcomes.items()} == dict.fromkeys(outcomes, 1), outcomes
    return {way: each.pop() for way, each in outcomes.items()}


@contextmanager
def dropped(network: str) -> Iterator[None]:
    """A firewall rule against packets of the neighbour for a network.

    Not in DOCKER-USER: the engine takes the jump to that chain away, and puts it back, whenever it makes a network.
    """
    rule = ["FORWARD", "-i", VETH, "-d", network, "-j", "DROP"]
    subprocess.run(["iptables", "-w", "10", "-I", *rule], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-w", "10", "-D", *rule], check=True, timeout=20)


def expected_of_a_neighbour(exposed: Exposed) -> set[str]:
    """The ways that are open with engines before 28.

    What is published, at the containers' own addresses; and what is published on 127.0.0.1 there, too: the engine
    translates that address wherever a packet comes from, before the kernel could refuse it.
    """
    local = {"container data", "127.0.0.1 data"} if exposed.publish else set()
    match exposed.strategy:
        case "gateway":
            return {"container data", "container bus", "gateway data", "gateway bus"} | local
        case "host-name":
            return {"container data", "container bus", "docker0 data", "docker0 bus"} | local
        case _:
            return local


def before_28(exposed: Exposed) -> None:
    version: Any = exposed.containers.engine.version()["Version"]
    if int(version.partition(".")[0]) >= 28:
        pytest.skip(f"measured with engines before 28, and this is {version}")


def test_what_a_neighbour_reaches(exposed: Exposed) -> None:
    before_28(exposed)
    found = reached(exposed)
    print(f"{exposed.strategy}, publish {exposed.publish}: {found}")  # noqa: T201
    assert {way for way, outcome in found.items() if outcome == "open"} == expected_of_a_neighbour(exposed)
    # At an address that this machine has in a local network nobody listens.
    assert found["own addresses"] == "refused"
    if not exposed.publish and exposed.strategy == "fixed-address":
        assert (found["container data"], found["container bus"]) == ("silent", "silent")


def test_a_firewall_rule_keeps_a_neighbour_out(exposed: Exposed) -> None:
    # Whatever address it was sent to, a packet that is let through has the container's by then.
    network = exposed.containers.engine.api.inspect_network(exposed.containers.network_name)
    found = reached(exposed, closed=network["IPAM"]["Config"][0]["Subnet"])
    assert "open" not in found.values(), found


def test_the_plan_says_so(exposed: Exposed) -> None:
    before_28(exposed)
    # A neighbour gets in exactly where the plan says so.
    assert (NEIGHBOUR_NOTE in exposed.told) == bool(expected_of_a_neighbour(exposed))
    if exposed.strategy == "fixed-address" and exposed.publish:
        assert "--no-publish closes that" in exposed.told
    else:
        assert "--no-publish closes that" not in exposed.told


def own_address() -> str:
    """The address of this machine in the network that leads elsewhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # nothing is sent
        found: str = probe.getsockname()[0]
    return found


def test_a_name_of_the_local_network_opens_the_ports_there_and_says_so(containers: Containers) -> None:
    require_root()
    address = own_address()
    with mapped_name(f"vb-open-{os.getpid()}.local", address) as name:
        done = containers("--nodes", 3, "--replicas", 0, "--announce-host", name, "--insecure")
        assert done.returncode == 0, done.stderr
        warning = f"warning: {name} leads to {address}: the ports are open to the network there, without a password"
        assert warning in done.stderr
        ports = containers.ports()
        assert [node["addresses"]["host"] for node in containers.nodes()] == [f"{name}:{port}" for port in ports]
    inside = host_gateway(containers.engine)
    block = {*ports, *(port + 10000 for port in ports)}
    opened = {(address, port) for port in ports}
    assert {each for each in listeners() if each[1] in block} == {(inside, port) for port in block} | opened
    with neighbour() as namespace:
        found = dial_from(namespace, [(address, port) for port in sorted(block)])
    assert {each for each, outcome in found.items() if outcome == "open"} == opened
    containers.ok("delete")
    containers.assert_nothing_left()


def test_an_address_of_the_local_network_is_opened_with_a_password(containers: Containers) -> None:
    address = own_address()
    asked = ("--nodes", 3, "--replicas", 0, "--publish", address)
    assert "without a password (password-demanded)" in containers.fails(2, *asked)
    assert "is no address of this machine" in containers.fails(2, *asked[:5], "203.0.113.7")
    containers.assert_nothing_left()
    done = containers(*asked, "--generate-password")
    assert done.returncode == 0, done.stderr
    assert f"the ports are open to the network of {address}, and what is sent there can be read" in done.stderr
    document = containers.json("status")
    ports = containers.ports()
    assert [node["addresses"]["announced"] for node in document["nodes"]] == [f"{address}:{port}" for port in ports]
    # The bus, which knows no passwords, stays inside.
    block = {*ports, *(port + 10000 for port in ports)}
    assert {each for each in listeners() if each[1] in block} == {(address, port) for port in ports}
    password = Path(document["login"]["password_file"]).read_text()
    with neighbour() as namespace:
        argv = keys_through("redis-py", (address, ports[0]), "neighbour", 100)
        words = ["env", f"KEYS_PASSWORD={password}", "ip", "netns", "exec", namespace, *argv]
        assert printed_by(words) == "100\n"
        found = dial_from(namespace, [(address, port) for port in sorted(block)])
    assert {each for each, outcome in found.items() if outcome == "open"} == {(address, port) for port in ports}
    assert containers.ok("doctor").count("error") == 0
    containers.ok("delete")
    containers.assert_nothing_left()
