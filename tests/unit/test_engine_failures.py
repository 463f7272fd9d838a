"""What engines say when they refuse, word for word, and what keeps us from asking them: each is one of our errors."""

from __future__ import annotations

import gc
import json
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, create_api_error_from_http_exception

from bootstrap.errors import (
    BootstrapError,
    Conflict,
    NodeFailed,
    PortTaken,
    RuntimeUnavailable,
    Taken,
    UsageError,
)
from bootstrap.planning.plan import build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.spec import DEFAULT_IMAGE, ClusterSpec
from bootstrap.runtimes.engine.failures import (
    bad_name,
    control_error,
    engine_errors,
    gone,
    lacks_program,
    pull_error,
    start_error,
    taken_by_strangers,
    unavailable,
)
from bootstrap.runtimes.engine.runtime import EngineRuntime

NODE = build_plan(ClusterSpec(nodes=2, replicas=0), Site.assumed()).nodes[0]


def refusal(status: int, message: str) -> APIError:
    """A refusal as the SDK makes it of an engine's answer."""
    response = requests.Response()
    response.status_code, response.url = status, "http+docker://localhost/v1.41/x"
    response._content = json.dumps({"message": message}).encode()
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        try:
            create_api_error_from_http_exception(error)
        except APIError as made:
            return made
    raise AssertionError(f"{status} is no refusal")


EXTERNAL = "driver failed programming external connectivity on endpoint valkey0 (50ee7e5cd1f0126412f333be157155cd): "
EXPOSE = " are not available: exposing port TCP 127.0.0.1:7301 -> 127.0.0.1:0: listen tcp4 127.0.0.1:7301: bind: "
SETUP = "failed to set up container networking: "
CREATE = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
)


@pytest.mark.parametrize(
    ("message", "port"),
    [
        # 20.10 to 27
        (EXTERNAL + "Bind for 127.0.0.1:6380 failed: port is already allocated", 6380),
        (EXTERNAL + "Error starting userland proxy: listen tcp4 127.0.0.1:7301: bind: address already in use", 7301),
        (EXTERNAL + "Error starting userland proxy: listen tcp6 [::1]:7301: bind: address already in use", 7301),
        # 28 and newer
        (SETUP + EXTERNAL + "Bind for 127.0.0.1:6380 failed: port is already allocated", 6380),
        (
            SETUP + EXTERNAL + "failed to bind host port for 127.0.0.1:7301:172.28.0.2:7302/tcp: "
            "address already in use",
            7301,
        ),
        (SETUP + EXTERNAL + "failed to bind host port 127.0.0.1:7301/tcp: address already in use", 7301),
        # Docker Desktop
        ("Ports" + EXPOSE + "Only one usage of each socket address is normally permitted.", 7301),
        ("ports" + EXPOSE + "address already in use", 7301),
        # rootless
        ("error while calling PortManager.AddPort(): listen tcp4 127.0.0.1:7301: bind: address already in use", 7301),
        # One that names no port: the node's own is the likely one.
        (EXTERNAL + "port is already allocated", 6379),
    ],
)
def test_a_port_that_is_taken_is_named(message: str, port: int) -> None:
    error = start_error(NODE, refusal(500, message))
    assert isinstance(error, PortTaken)
    assert isinstance(error, Taken), "planning anew may choose better"
    assert list(error.ports) == [port]
    assert f"port {port} of valkey0 was taken by " in error.message
    assert "--base-port" in error.hint


def test_the_holder_of_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        error = start_error(
            NODE, refusal(500, EXTERNAL + f"Bind for 127.0.0.1:{port} failed: port is already allocated")
        )
    assert isinstance(error, PortTaken)
    assert f"(pid {os.getpid()})" in error.ports[port]


@pytest.mark.parametrize(
    ("status", "message", "kind", "code", "words"),
    [
        (403, "Address already in use", Conflict, "address-taken", "of valkey0 was given to another container"),
        (
            500,
            EXTERNAL
            + "Error starting userland proxy: listen tcp4 203.0.113.7:6379: bind: cannot assign requested address",
            RuntimeUnavailable,
            "bad-publish",
            "ports cannot be published at 127.0.0.1",
        ),
        (
            500,
            "ports" + EXPOSE + "can't assign requested address",
            RuntimeUnavailable,
            "bad-publish",
            "ports cannot be published at 127.0.0.1",
        ),
        (
            400,
            CREATE + 'exec: "valkey-server": executable file not found in $PATH: unknown',
            RuntimeUnavailable,
            "no-server-in-image",
            "has neither valkey-server nor redis-server",
        ),
        (
            500,
            "crun: executable file `valkey-server` not found in $PATH: No such file or directory: OCI runtime ...",
            RuntimeUnavailable,
            "no-server-in-image",
            "has neither valkey-server nor redis-server",
        ),
        (404, f"No such image: {DEFAULT_IMAGE}", RuntimeUnavailable, "no-image", f"the image {DEFAULT_IMAGE} is gone"),
        (
            409,
            'Conflict. The container name "/valkey0" is already in use by container "ee29444f". You have to ...',
            Conflict,
            "container-taken",
            "a container valkey0 exists and is not ours",
        ),
    ],
)
def test_what_a_refusal_to_start_means(
    status: int, message: str, kind: type[BootstrapError], code: str, words: str
) -> None:
    error = start_error(NODE, refusal(status, message))
    assert type(error) is kind
    assert error.code == code
    assert words in error.message
    assert error.hint
    assert not isinstance(error, Taken)


@pytest.mark.parametrize(
    "message",
    [
        "Minimum memory limit allowed is 6MB",
        CREATE + "openat2 /sys/fs/cgroup/x/memory.max: no such file or directory: unknown",
        "error while mounting volume '/var/lib/docker/volumes/x/_data': no such file or directory",
    ],
)
def test_what_means_nothing_special_is_told_as_it_is(message: str) -> None:
    error = refusal(500, message)
    assert start_error(NODE, error) is None
    with pytest.raises(RuntimeUnavailable) as caught, engine_errors("start valkey0"):
        raise error
    assert caught.value.code == "engine-refused"
    assert caught.value.message == f"the engine refused to start valkey0: {message}"
    assert caught.value.__cause__ is error


def test_a_full_disk_has_its_own_code() -> None:
    with pytest.raises(RuntimeUnavailable) as caught, engine_errors("start valkey0"):
        raise refusal(500, "mkdir /var/lib/docker/overlay2/4f-init: no space left on device")
    assert caught.value.code == "no-space"
    assert "no space left to start valkey0" in caught.value.message
    assert "docker system df" in caught.value.hint


def test_whoever_knows_better_goes_first() -> None:
    known = NodeFailed("it died")
    with pytest.raises(NodeFailed) as caught, engine_errors("x", mapped=lambda error: known):
        raise refusal(500, "no space left on device")
    assert caught.value is known
    with pytest.raises(RuntimeUnavailable), engine_errors("x", mapped=lambda error: None):
        raise refusal(500, "whatever")


@pytest.mark.parametrize("error", [NodeFailed("ours"), KeyError("a mistake"), ValueError("a mistake")])
def test_what_is_not_the_engines_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, engine_errors("x"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("status", "message", "lacks"),
    [
        (400, CREATE + 'exec: "valkey-server": executable file not found in $PATH: unknown', True),
        (400, CREATE + 'exec: "/x/valkey-server": stat /x/valkey-server: no such file or directory: unknown', True),
        (500, "openat2 /sys/fs/cgroup/x: no such file or directory", False),
        (500, "no space left on device", False),
    ],
)
def test_an_image_that_lacks_a_program(status: int, message: str, lacks: bool) -> None:
    assert lacks_program(refusal(status, message)) == lacks


DEAD = "5acc854b9f22bbf436a3b87587ad670e225b7bcffbfe4cc31eaa185443a9eee1"


@pytest.mark.parametrize(
    ("status", "message", "ended", "removed"),
    [
        (404, f"No such container: {DEAD}", True, True),
        (409, "can not get logs from container which is dead or marked for removal", True, True),
        (409, f"Cannot kill container: {DEAD}: Container {DEAD} is not running", True, False),
        (409, f"Container {DEAD} is not running", True, False),
        (500, "cannot kill container: permission denied", False, False),
    ],
)
def test_a_container_that_ended_meanwhile(status: int, message: str, ended: bool, removed: bool) -> None:
    error = refusal(status, message)
    assert gone(error) == removed
    told = control_error("valkey", "valkey0", error)
    assert (told is not None) == ended
    if told is not None:
        assert isinstance(told, NodeFailed)
        assert told.code == "not-running"
        assert "create --name valkey" in told.hint


def test_the_sdk_makes_of_answers_what_is_told_apart_here() -> None:
    assert isinstance(refusal(404, "No such image: x"), ImageNotFound)
    assert isinstance(refusal(404, "No such container: x"), NotFound)
    assert refusal(500, "words").explanation == "words"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host', "no-image"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "no-image"),
        ("write /var/lib/docker/tmp/GetImageBlob: no space left on device", "no-space"),
    ],
)
def test_a_pull_that_is_refused(message: str, code: str) -> None:
    error = pull_error("x", refusal(500, message))
    assert isinstance(error, RuntimeUnavailable)
    assert error.code == code
    assert "x" in error.message
    assert error.hint


def test_a_name_that_no_image_can_have() -> None:
    error = bad_name("Valkey", refusal(500, "invalid reference format: repository name must be lowercase"))
    assert isinstance(error, UsageError)
    assert error.code == "invalid-image"
    assert error.message == "Valkey is not the name of an image: repository name must be lowercase"
    assert bad_name("valkey", refusal(500, "whatever")) is None


def test_strangers_are_named() -> None:
    one, many = taken_by_strangers("volume", ["a-data"]), taken_by_strangers("network", [*"abcdef"])
    assert (one.code, many.code) == ("volume-taken", "network-taken")
    assert "a volume a-data exists and is not ours" in one.message
    assert "`docker volume rm a-data`" in one.hint
    assert "a, b, c, d and 2 more" in many.message
    assert "`docker network rm a b c d`" in many.hint


# What keeps us from the engine: real errors of the SDK.


@pytest.fixture
def sdk() -> Iterator[None]:
    """The SDK forgets to close a socket that it could not connect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


pytestmark = pytest.mark.usefixtures("sdk")


def failed_to_reach(host: str, monkeypatch: pytest.MonkeyPatch) -> RuntimeUnavailable:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(RuntimeUnavailable) as caught, engine_errors("reach the engine", seconds=1):
        docker.from_env(timeout=1).version()
    assert caught.value.exit_code == 3
    assert host in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


async def test_no_engine_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nope.sock")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            with pytest.raises(RuntimeUnavailable, match="no Docker Engine answers") as caught:
                await EngineRuntime().describe()
            assert caught.value.code == "no-engine"
            del caught
        gc.collect()
    assert not warned


def test_no_engine_at_a_socket_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = failed_to_reach(f"unix://{tmp_path}/nope.sock", monkeypatch)
    assert error.code == "no-engine"
    assert "no Docker Engine answers" in error.message
    assert "DOCKER_HOST" in error.hint


def test_the_hint_speaks_of_docker_host_only_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    error = unavailable(FileNotFoundError("nope"), 1)
    assert error.code == "no-engine"
    assert "DOCKER_HOST" not in error.hint
    assert "--runtime process" in error.hint


@pytest.fixture
def unix_socket(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        yield listener


def test_no_engine_behind_a_socket_that_was_left(unix_socket: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed_to_reach(f"unix://{unix_socket.getsockname()}", monkeypatch).code == "no-engine"


def test_no_engine_at_a_port_that_nobody_listens_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert failed_to_reach(f"tcp://127.0.0.1:{bound.getsockname()[1]}", monkeypatch).code == "no-engine"


@contextmanager
def nobody() -> Iterator[None]:
    """As a user without rights, where we have them all."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_an_engine_that_does_not_let_us_in(
    unix_socket: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unix_socket.listen()
    tmp_path.chmod(0)
    try:
        with nobody():
            error = failed_to_reach(f"unix://{unix_socket.getsockname()}", monkeypatch)
    finally:
        tmp_path.chmod(0o700)
    assert error.code == "engine-permission"
    assert "usermod -aG docker" in error.hint


def test_an_engine_that_does_not_answer(unix_socket: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    unix_socket.listen()
    error = failed_to_reach(f"unix://{unix_socket.getsockname()}", monkeypatch)
    assert error.code == "engine-silent"
    assert "did not answer within 1 s" in error.message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "ended the connection"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{"ApiVersion"', "ended the connection"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "cannot be asked: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope", "cannot be asked: "),
    ],
)
def test_what_is_no_engine_or_one_that_ends(
    unix_socket: socket.socket, monkeypatch: pytest.MonkeyPatch, answer: bytes, words: str
) -> None:
    unix_socket.listen()

    def serve() -> None:
        connection, _ = unix_socket.accept()
        with connection:
            connection.recv(9999)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    error = failed_to_reach(f"unix://{unix_socket.getsockname()}", monkeypatch)
    thread.join()
    assert error.code == "engine-gone"
    assert words in error.message


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nonsense", "invalid bind address format: port is required: nonsense"),
        ("ssh://nobody@127.0.0.1:1", "install paramiko package to enable ssh:// support"),
        ("tcp://nowhere.invalid:2375", ""),  # in the resolver's words
    ],
)
def test_an_address_that_cannot_be_asked(host: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = failed_to_reach(host, monkeypatch)
    assert error.code == "engine-gone"
    assert error.message.startswith(f"the Docker Engine at {host} cannot be asked: {why}")
    assert "DOCKER_HOST" in error.hint


def test_certificates_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "nope"))
    assert failed_to_reach("tcp://127.0.0.1:1", monkeypatch).code == "engine-gone"


def test_causes_that_lead_in_a_circle_come_to_an_end() -> None:
    one, two = DockerException("one"), OSError(13, "Permission denied")
    one.__cause__, two.__context__ = two, one
    assert unavailable(one, 1).code == "engine-permission"
