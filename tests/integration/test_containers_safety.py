"""What a node's container is, as the engine tells it: little power, no secrets, and nothing that stays behind."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import redis

from .conftest import ask, require_root, until
from .containers import Containers, docker_cli, image_of, make, remove

pytestmark = [pytest.mark.servers, pytest.mark.docker]

OURS = "valkey-bootstrap."
TWO = ("--nodes", 2, "--replicas", 1)
SETTING = ("--set", "maxmemory=12345678")
TOGETHER = pytest.mark.xdist_group("containers-safety")


@pytest.fixture(scope="module")
def containers_of_two(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    made = make(engine, tmp_path_factory.mktemp("safety") / "state")
    try:
        made.ok(*TWO, *SETTING, "--memory", "64m")
        yield made
        made.ok("delete")
        made.assert_nothing_left()
    finally:
        remove(made)


def inspected(containers: Containers) -> list[dict[str, Any]]:
    found = [each.attrs for each in containers.containers()]
    assert len(found) == 2
    return found


def config_file(containers: Containers, index: int) -> tuple[tarfile.TarInfo, str]:
    """The configuration of a node, as the engine hands it out."""
    chunks, _ = containers.container(index).get_archive("/data/server/valkey.conf")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        (entry,) = archive.getmembers()
        file = archive.extractfile(entry)
        assert file is not None
        return entry, file.read().decode()


@TOGETHER
def test_a_container_has_no_power(containers_of_two: Containers) -> None:
    for each in inspected(containers_of_two):
        config, host = each["Config"], each["HostConfig"]
        assert config["User"] == "999:999"
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"] is True
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert (host["Privileged"], host["PublishAllPorts"]) == (False, False)
        assert (host["NetworkMode"], host["PidMode"], host["IpcMode"], host["UsernsMode"]) == (
            containers_of_two.engine.api.inspect_network(containers_of_two.network_name)["Id"],
            "",
            "private",
            "",
        )
        assert not host["Binds"]
        assert not host["Devices"]
        assert list(each["NetworkSettings"]["Networks"]) == [containers_of_two.network_name]


@TOGETHER
@pytest.mark.root
def test_the_kernel_says_so_too(containers_of_two: Containers) -> None:
    require_root()
    for each in inspected(containers_of_two):
        status = Path(f"/proc/{each['State']['Pid']}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        assert lines["Uid"].split() == ["999"] * 4
        assert lines["Gid"].split() == ["999"] * 4
        assert {lines[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert lines["NoNewPrivs"].strip() == "1"


@TOGETHER
def test_what_ends_stays_down(containers_of_two: Containers) -> None:
    for each in inspected(containers_of_two):
        assert each["HostConfig"]["RestartPolicy"]["Name"] == "no"
        assert each["HostConfig"]["AutoRemove"] is False
    ask(containers_of_two.ports()[1], "CONFIG", "SET", "save", "")
    containers_of_two.container(1).kill()
    until(lambda: containers_of_two.container(1).status == "exited")
    done = containers_of_two("status", "--exit-code")
    assert done.returncode == 7
    assert containers_of_two.container(1).status == "exited"
    containers_of_two.ok(*TWO, *SETTING, "--memory", "64m")


@TOGETHER
def test_its_log_cannot_fill_the_disk(containers_of_two: Containers) -> None:
    for each in inspected(containers_of_two):
        assert each["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "2", "max-size": "10m"}}


@TOGETHER
def test_its_labels_are_ours_alone(containers_of_two: Containers) -> None:
    name, api = containers_of_two.name, containers_of_two.engine.api
    image = api.inspect_image(image_of("valkey-9.1"))["Config"]["Labels"] or {}  # type: ignore[no-untyped-call]
    networks = api.networks(filters={"label": f"{OURS}cluster={name}"})
    volumes = api.volumes(filters={"label": f"{OURS}cluster={name}"})["Volumes"]
    assert [each["Name"] for each in networks] == [containers_of_two.network_name]
    assert sorted(each["Name"] for each in volumes) == [f"{name}0-data", f"{name}1-data"]
    of_containers = [each["Config"]["Labels"] for each in inspected(containers_of_two)]
    for labels in (*of_containers, *(each["Labels"] for each in (*networks, *volumes))):
        own = {key for key in labels if key not in image}
        assert own
        assert all(key.startswith(OURS) for key in own)
        assert labels[f"{OURS}cluster"] == name


@TOGETHER
def test_the_configuration_is_a_file_that_only_the_server_reads(containers_of_two: Containers) -> None:
    image = containers_of_two.engine.images.get(image_of("valkey-9.1")).attrs["Config"]
    for index, each in enumerate(inspected(containers_of_two)):
        entry, text = config_file(containers_of_two, index)
        assert (oct(entry.mode & 0o7777), entry.uid, entry.gid) == ("0o400", 999, 999)
        assert 'maxmemory "12345678"' in text
        assert each["Config"]["Entrypoint"] == ["valkey-server"]
        assert each["Config"]["Cmd"] == ["/data/server/valkey.conf"]
        assert each["Config"]["Env"] == image["Env"]


@TOGETHER
def test_the_folder_of_the_data_is_the_servers(containers_of_two: Containers) -> None:
    chunks, found = containers_of_two.container(0).get_archive("/data/server")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        members = {entry.name: entry for entry in archive.getmembers()}
    assert found is not None
    assert found["name"] == "server"
    assert (oct(members["server"].mode & 0o7777), members["server"].uid) == ("0o700", 999)
    assert {entry.uid for entry in members.values()} == {999}
    assert {"server/nodes.conf", "server/appendonlydir", "server/valkey.conf"} <= members.keys()


@TOGETHER
def test_memory_is_limited_on_request(containers_of_two: Containers) -> None:
    for each in inspected(containers_of_two):
        assert (each["HostConfig"]["Memory"], each["HostConfig"]["MemorySwap"]) == (64 * 2**20, 64 * 2**20)
        assert each["State"]["OOMKilled"] is False


def test_without_a_request_memory_is_not_limited(containers: Containers) -> None:
    containers.ok("--nodes", 1, "--replicas", 0)
    (found,) = containers.containers()
    assert (found.attrs["HostConfig"]["Memory"], found.attrs["HostConfig"]["MemorySwap"]) == (0, 0)
    (mount,) = found.attrs["Mounts"]
    assert (mount["Type"], mount["Name"], mount["Destination"]) == ("volume", f"{containers.name}0-data", "/data")
    containers.ok("delete")
    containers.assert_nothing_left()


def test_a_limit_is_enforced(containers: Containers) -> None:
    containers.ok("--nodes", 1, "--replicas", 0, "--memory", "32m", "--ephemeral")
    port = containers.ports()[0]

    def fill() -> None:
        for number in range(64):
            ask(port, "SET", f"{{06S}}{number}", "x" * 2**20)

    with pytest.raises(redis.ConnectionError):
        fill()
    until(lambda: containers.container(0).status == "exited")
    assert containers.container(0).attrs["State"]["ExitCode"] == 137
    containers.ok("delete")
    containers.assert_nothing_left()


# Volumes.


@pytest.fixture(scope="module")
def image_with_volume(engine: docker.DockerClient) -> Iterator[str]:
    """An image that declares a volume, as official ones do."""
    tag = f"valkey-bootstrap-test:volume-{os.getpid()}"
    source = engine.containers.create(image_of("valkey-9.1"))
    try:
        image = source.commit(*tag.split(":"), changes="VOLUME /data")
    finally:
        source.remove(v=True)
    assert image.attrs["Config"]["Volumes"] == {"/data": {}}
    yield tag
    engine.images.remove(tag, force=True)


def volumes_of(containers: Containers) -> list[str]:
    """The volumes that the nodes' containers have, whoever named them."""
    mounts = [mount for each in containers.containers() for mount in each.attrs["Mounts"]]
    return [mount["Name"] for mount in mounts if mount["Type"] == "volume"]


def existing(containers: Containers) -> set[str]:
    return {each["Name"] for each in containers.engine.api.volumes()["Volumes"] or ()}


def test_ephemeral_makes_no_volume(containers: Containers) -> None:
    containers.ok(*TWO, "--ephemeral")
    assert volumes_of(containers) == []
    assert [each.attrs["Mounts"] for each in containers.containers()] == [[], []]
    entry, _ = config_file(containers, 0)
    assert (oct(entry.mode & 0o7777), entry.uid) == ("0o400", 999)
    # Stopped and started, data are there still; with the container they go.
    assert ask(containers.ports()[0], "SET", "key", "there") is True
    docker_cli("stop", *(str(each.name) for each in containers.containers()))
    containers.ok(*TWO, "--ephemeral")
    assert ask(containers.ports()[0], "GET", "key") == "there"
    containers.ok("delete")
    containers.assert_nothing_left()


@TOGETHER
@pytest.mark.parametrize("ephemeral", [True, False])
def test_volumes_that_an_image_declares_go_with_the_cluster(
    containers: Containers, image_with_volume: str, ephemeral: bool
) -> None:
    containers.ok(*TWO, "--image", image_with_volume, *(["--ephemeral"] if ephemeral else []))
    made = volumes_of(containers)
    assert len(made) == 2
    if ephemeral:  # named by the engine
        assert [len(each) for each in made] == [64, 64]
    else:
        assert made == [f"{containers.name}0-data", f"{containers.name}1-data"]
    assert set(made) <= existing(containers)
    assert containers.json("status")["health"] == "ok"
    containers.ok("delete")
    assert set(made) & existing(containers) == set()
    containers.assert_nothing_left()


@TOGETHER
def test_volumes_that_an_image_declares_go_with_a_failed_creation(
    containers: Containers, image_with_volume: str
) -> None:
    before = existing(containers)
    flags = (*TWO, "--image", image_with_volume, "--ephemeral", "--set", "no-such-setting=1")
    containers.fails(5, *flags, "--retain")
    made = volumes_of(containers)
    assert len(made) > 0
    assert set(made).isdisjoint(before)
    containers.ok("delete")
    assert set(made) & existing(containers) == set()
    containers.assert_nothing_left()


# What is not ours.


@pytest.mark.parametrize("kind", ["network", "container", "volume"])
def test_what_is_not_ours_is_not_touched(containers: Containers, kind: str) -> None:
    name, make_it, remove_it = {
        "network": (f"{containers.name}-net", ["network", "create", "--subnet", subnet_of_nobody()], ["network", "rm"]),
        "container": (f"{containers.name}1", ["create", "--name"], ["rm", "-f", "-v"]),
        "volume": (f"{containers.name}0-data", ["volume", "create"], ["volume", "rm"]),
    }[kind]
    docker_cli(*make_it, name, *([image_of("valkey-9.1")] if kind == "container" else []))
    try:
        said = containers.fails(4, *TWO)
        assert f"a {kind} {name} exists and is not ours" in said
        assert f"({kind}-taken)" in said
        containers.ok("delete")
        docker_cli("inspect", "--type", kind, name)
        assert containers.containers() == []
    finally:
        docker_cli(*remove_it, name)
    containers.assert_nothing_left()


def subnet_of_nobody() -> str:
    """One for measurements (RFC 2544), another one for each process."""
    return f"198.19.{os.getpid() % 256}.{os.getpid() // 256 % 16 * 16}/28"


def test_a_guest_on_the_network_is_named_and_left(containers: Containers) -> None:
    containers.ok(*TWO)
    guest = f"{containers.name}-guest"
    image = image_of("valkey-9.1")
    docker_cli("run", "-d", "--name", guest, "--network", containers.network_name, image)
    try:
        said = containers("delete")
        assert said.returncode == 5
        assert f"network {containers.network_name} (in use by the container {guest})" in said.stderr
        assert containers.engine.containers.get(guest).status == "running"
    finally:
        docker_cli("rm", "-f", "-v", guest)
    containers.ok("delete")
    containers.assert_nothing_left()
