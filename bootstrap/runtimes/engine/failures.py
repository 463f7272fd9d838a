"""What the engine's refusals mean: every error of the SDK becomes one of this package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from bootstrap.errors import BootstrapError, Conflict, PortTaken, RuntimeUnavailable
from bootstrap.planning.plan import Container, PlannedNode
from bootstrap.planning.spec import DEFAULT_IMAGE
from bootstrap.planning.text import listing
from bootstrap.runtimes import listening
from bootstrap.runtimes.engine.facts import endpoint

API_SECONDS = 60
"""How long one call of the engine may take; the slowest start of a container on a busy machine is far below."""

_GROUP_HINT = "let your user use Docker (`sudo usermod -aG docker $USER`, then log in again), or use --runtime process"
_ENGINE_HINT = "start Docker, or use --runtime process"


@contextmanager
def engine_errors(what: str, *, mapped: Callable[[APIError], BootstrapError | None] | None = None) -> Iterator[None]:
    """Turns the SDK's errors into ours.

    Args:
        what: what is done, after "to".
        mapped: knows better what a refusal means; None leaves it to the general rules.

    Raises:
        BootstrapError: whatever went wrong.
    """
    try:
        yield
    except APIError as error:
        raise (mapped(error) if mapped else None) or _refused(what, error) from error
    # Whatever keeps the SDK from the engine is one of these: those of requests are errors of the operating system.
    except (DockerException, OSError) as error:
        raise unavailable(error) from error


def said_by(error: APIError) -> str:
    """What the engine says went wrong."""
    return str(error.explanation or error).strip()


def _refused(what: str, error: APIError) -> BootstrapError:
    said = said_by(error)
    if "no space left" in said.lower():
        return RuntimeUnavailable(
            f"the engine has no space left to {what}",
            code="no-space",
            hint="see `docker system df`; `docker system prune` frees what nobody uses",
        )
    return RuntimeUnavailable(
        f"the engine refused to {what}: {said}", code="engine-refused", hint="see the engine's own log"
    )


def unavailable(error: BaseException) -> RuntimeUnavailable:
    """Why the engine cannot be asked; code ``no-engine`` where none is there at all."""
    where = endpoint()
    found = {type(each) for each in _causes(error)}
    if PermissionError in found:
        return RuntimeUnavailable(
            f"no permission to use the Docker Engine at {where}", code="engine-permission", hint=_GROUP_HINT
        )
    if found & {FileNotFoundError, ConnectionRefusedError} or "Connection refused" in str(error):
        return RuntimeUnavailable(f"no Docker Engine answers at {where}", code="no-engine", hint=_ENGINE_HINT)
    if any(issubclass(each, TimeoutError) for each in found) or "timed out" in str(error).lower():
        return RuntimeUnavailable(
            f"the Docker Engine at {where} did not answer within {API_SECONDS} s",
            code="engine-silent",
            hint=_ENGINE_HINT,
        )
    return RuntimeUnavailable(
        f"the Docker Engine at {where} cannot be asked: {_last_cause(error)}", code="engine-gone", hint=_ENGINE_HINT
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it: the SDK's libraries keep causes in several places."""
    open_, seen = [error], set[int]()
    while open_:
        each = open_.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
        open_ += [cause for cause in inner if isinstance(cause, BaseException)]


def _last_cause(error: BaseException) -> str:
    return str(list(_causes(error))[-1]).lower()


def busy(name: str) -> Conflict:
    """Another command makes the same cluster."""
    return Conflict(
        f'another command is at work on "{name}"', code="busy", hint="wait for it, or choose another --name"
    )


def no_image(image: str, message: str) -> RuntimeUnavailable:
    """An image that cannot be had."""
    return RuntimeUnavailable(
        message,
        code="no-image",
        hint=f"check the name {image}; without a registry load it with `docker load`, or use --runtime process",
    )


def no_server(image: str) -> RuntimeUnavailable:
    """An image that holds no server."""
    return RuntimeUnavailable(
        f"the image {image} has neither valkey-server nor redis-server on its PATH",
        code="no-server-in-image",
        hint=f"use --image {DEFAULT_IMAGE}",
    )


def pull_error(image: str, error: APIError) -> BootstrapError:
    """What a refusal to pull means."""
    return no_image(image, f"{image} could not be pulled: {said_by(error)}")


def lacks_program(error: APIError) -> bool:
    """Whether a container did not start because its image lacks the program."""
    said = said_by(error)
    return "executable file not found" in said or "no such file or directory" in said


def gone(error: APIError) -> bool:
    """Whether a container went away after it was listed: there is none any more, or it is just being removed."""
    return isinstance(error, NotFound) or "marked for removal" in said_by(error)


def start_error(node: PlannedNode, error: APIError) -> BootstrapError | None:
    """What a refusal to create or start a node's container means; None where it means nothing special."""
    said = said_by(error)
    assert node.container is not None
    for mark, failure in _START_FAILURES:
        if mark in said:
            return failure(node, node.container, said)
    if isinstance(error, ImageNotFound):
        return no_image(node.container.image, f"the image {node.container.image} is gone")
    return container_taken(node.name) if error.status_code == 409 else None


def container_taken(name: str) -> Conflict:
    """Somebody else's container has a name of ours."""
    return Conflict(
        f"a container {name} exists and is not ours",
        code="container-taken",
        hint=f"choose another --name, or remove it if it is not needed: `docker rm {name}`",
    )


def _port_taken(node: PlannedNode, _container: Container, said: str) -> BootstrapError:
    match = _PORT.search(said)
    port = int(match[1]) if match else node.addresses.host.port
    holder = listening.holders([port])[port]
    return PortTaken(
        f"port {port} of {node.name} was taken by {holder}",
        ports={port: holder},
        hint="choose another --base-port, or leave it out to take the next free block",
    )


def _bad_publish(_node: PlannedNode, container: Container, _said: str) -> BootstrapError:
    hosts = listing(sorted({each.host for each in container.published}))
    return RuntimeUnavailable(
        f"ports cannot be published at {hosts}: that must be addresses of the engine's machine",
        code="bad-publish",
        hint="announce another name, or leave out --announce-host",
    )


def _address_taken(node: PlannedNode, container: Container, _said: str) -> BootstrapError:
    return Conflict(
        f"the address {container.address} of {node.name} was given to another container",
        code="address-taken",
        hint=f"see `docker network inspect {container.network}`",
    )


def _no_server_to_start(_node: PlannedNode, container: Container, _said: str) -> BootstrapError:
    return no_server(container.image)


_PORT = re.compile(r":(\d+)(?: failed)?: ")
_START_FAILURES: tuple[tuple[str, Callable[[PlannedNode, Container, str], BootstrapError]], ...] = (
    # What engines say, in several versions, and what it means.
    ("already allocated", _port_taken),
    ("bind: address already in use", _port_taken),
    ("ports are not available", _port_taken),
    ("cannot assign requested address", _bad_publish),
    ("Address already in use", _address_taken),
    ("executable file not found", _no_server_to_start),
    ("no such file or directory", _no_server_to_start),
)
