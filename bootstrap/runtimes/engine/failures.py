"""What the engine's refusals mean: every error of the SDK becomes one of this package."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.client import IncompleteRead

from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from urllib3.exceptions import HTTPError

from bootstrap.errors import BootstrapError, Conflict, NodeFailed, PortTaken, RuntimeUnavailable, UsageError
from bootstrap.planning.plan import Container, PlannedNode
from bootstrap.planning.spec import DEFAULT_IMAGE
from bootstrap.planning.text import listing
from bootstrap.runtimes import listening
from bootstrap.runtimes.engine.facts import endpoint

API_SECONDS = 30
"""How long one call of the engine may take; the slowest start of a container on a busy machine is far below."""

CONTACT_SECONDS = 5
"""How long an engine may take to say its version; a busy one needs a fraction of a second."""

_REMOVERS = {"network": "network rm", "container": "rm", "volume": "volume rm"}
_SDK_PREFIX = "Error while fetching server API version: "
_GROUP_HINT = "let your user use Docker (`sudo usermod -aG docker $USER`, then log in again), or use --runtime process"


@contextmanager
def engine_errors(
    what: str,
    *,
    mapped: Callable[[APIError], BootstrapError | None] | None = None,
    seconds: int = API_SECONDS,
) -> Iterator[None]:
    """Turns the SDK's errors into ours.

    Args:
        what: what is done, after "to".
        mapped: knows better what a refusal means; None leaves it to the general rules.
        seconds: how long the engine may take to answer.

    Raises:
        BootstrapError: whatever went wrong.
    """
    try:
        yield
    except APIError as error:
        raise (mapped(error) if mapped else None) or _refused(what, error) from error
    # Whatever keeps the SDK from the engine is one of these: those of requests are errors of the operating system, and
    # those of urllib3 come through where a stream breaks off.
    except (DockerException, OSError, HTTPError) as error:
        raise unavailable(error, seconds) from error


def said_by(error: APIError) -> str:
    """What the engine says went wrong."""
    return str(error.explanation or error).strip()


def _refused(what: str, error: APIError) -> BootstrapError:
    said = said_by(error)
    if no_space(said):
        return _full(what)
    return RuntimeUnavailable(
        f"the engine refused to {what}: {said}", code="engine-refused", hint="see the engine's own log"
    )


def no_space(said: str) -> bool:
    """Whether the engine says that a disk is full."""
    return "no space left" in said.lower()


def _full(what: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        f"the engine has no space left to {what}",
        code="no-space",
        hint="see `docker system df`; `docker system prune` frees what nobody uses",
    )


def unavailable(error: BaseException, seconds: int) -> RuntimeUnavailable:
    """Why the engine cannot be asked; code ``no-engine`` where none is there at all."""
    where, hint = endpoint(), "start Docker, or use --runtime process"
    if os.environ.get("DOCKER_HOST"):
        hint = "correct DOCKER_HOST, or start Docker there, or use --runtime process"
    causes = list(_causes(error))
    if _any(causes, PermissionError):
        return RuntimeUnavailable(
            f"no permission to use the Docker Engine at {where}", code="engine-permission", hint=_GROUP_HINT
        )
    if _any(causes, FileNotFoundError, ConnectionRefusedError) or "Connection refused" in str(error):
        return RuntimeUnavailable(f"no Docker Engine answers at {where}", code="no-engine", hint=hint)
    if _any(causes, TimeoutError) or "timed out" in str(error).lower():
        return RuntimeUnavailable(
            f"the Docker Engine at {where} did not answer within {seconds} s",
            code="engine-silent",
            hint="see whether `docker info` answers, and restart Docker if it does not, or use --runtime process",
        )
    if _any(causes, ConnectionError, IncompleteRead):
        return RuntimeUnavailable(
            f"the Docker Engine at {where} ended the connection",
            code="engine-gone",
            hint="see whether Docker still runs, then run the same command again",
        )
    return RuntimeUnavailable(
        f"the Docker Engine at {where} cannot be asked: {_reason(error, causes)}", code="engine-gone", hint=hint
    )


def _any(causes: Iterable[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(each, kinds) for each in causes)


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


def _reason(error: BaseException, causes: Iterable[BaseException]) -> str:
    """The system's own words where there are any, otherwise the first sentence of the SDK's."""
    words = [each.strerror for each in causes if isinstance(each, OSError) and each.strerror]
    text = words[-1] if words else str(error).removeprefix(_SDK_PREFIX).partition(". ")[0]
    return text[:1].lower() + text[1:].rstrip(".")


def no_image(message: str, hint: str) -> RuntimeUnavailable:
    """An image that cannot be had."""
    return RuntimeUnavailable(message, code="no-image", hint=hint)


def bad_name(image: str, error: APIError) -> BootstrapError | None:
    """What a refusal to look for an image means: a name that no image can have; None where it means nothing special."""
    _, mark, why = said_by(error).rpartition("invalid reference format")
    if not mark:
        return None
    return UsageError(
        f"{image} is not the name of an image{why}",
        code="invalid-image",
        hint=f"use a name such as {DEFAULT_IMAGE}, in lower case",
    )


def no_server(image: str, said: str = "") -> RuntimeUnavailable:
    """An image that holds no server, or one that does not run and said why."""
    return RuntimeUnavailable(
        f"the server of the image {image} does not tell its version: {said.splitlines()[0]}"
        if said
        else f"the image {image} has neither valkey-server nor redis-server on its PATH",
        code="no-server-in-image",
        hint=f"use --image {DEFAULT_IMAGE}",
    )


def pull_error(image: str, error: APIError) -> BootstrapError:
    """What a refusal to pull means."""
    return bad_name(image, error) or not_pulled(image, said_by(error))


def not_pulled(image: str, reason: str) -> BootstrapError:
    """A pull that failed; the engine says why."""
    if no_space(reason):
        return _full(f"pull {image}")
    return no_image(
        f"{image} could not be pulled: {reason}",
        f"check the name {image}; without a registry load it with `docker load`, or use --runtime process",
    )


def silent_pull(image: str, seconds: float) -> RuntimeUnavailable:
    """A pull that does not get on."""
    return no_image(
        f"{image} could not be pulled: nothing came for {seconds:g} s",
        f"see whether `docker pull {image}` gets on, or load it with `docker load`",
    )


def lacks_program(error: APIError) -> bool:
    """Whether a container did not start because its image lacks the program."""
    return _NO_PROGRAM.search(said_by(error)) is not None


def gone(error: APIError) -> bool:
    """Whether a container went away after it was listed: there is none any more, or it is just being removed."""
    return isinstance(error, NotFound) or "marked for removal" in said_by(error)


def control_error(cluster: str, node: str, error: APIError) -> BootstrapError | None:
    """What a refusal to stop, kill or pause a node means: it may have ended since it was listed."""
    return not_running(cluster, node) if gone(error) or "is not running" in said_by(error) else None


def not_running(cluster: str, node: str) -> NodeFailed:
    """A node that would have to run for what is asked."""
    return NodeFailed(
        f"{node} does not run", code="not-running", hint=f"start it: `valkey-bootstrap create --name {cluster}`"
    )


def start_error(node: PlannedNode, error: APIError) -> BootstrapError | None:
    """What a refusal to create or start a node's container means; None where it means nothing special."""
    said = said_by(error)
    assert node.container is not None
    for pattern, failure in _START_FAILURES:
        if pattern.search(said):
            return failure(node, node.container, said)
    if isinstance(error, ImageNotFound):
        return no_image(f"the image {node.container.image} is gone", "run the same command again: it pulls the image")
    return taken_by_strangers("container", [node.name]) if error.status_code == 409 else None


def taken_by_strangers(kind: str, names: Sequence[str]) -> Conflict:
    """Networks, containers or volumes of somebody else have names of ours."""
    are = f"the {kind}s {listing(names, 4)} exist and are" if len(names) > 1 else f"a {kind} {names[0]} exists and is"
    return Conflict(
        f"{are} not ours",
        code=f"{kind}-taken",
        hint=f"choose another --name, or remove what is not needed: `docker {_REMOVERS[kind]} {' '.join(names[:4])}`",
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


# The address on the engine's machine comes first; others may follow.
_PORT = re.compile(r"(?:\d+(?:\.\d+){3}|\]):(\d+)")
_NO_PROGRAM = re.compile(r"executable file .*not found|exec: .*no such file or directory", re.IGNORECASE)
_START_FAILURES: tuple[tuple[re.Pattern[str], Callable[[PlannedNode, Container, str], BootstrapError]], ...] = (
    # What engines say, in several versions and on several systems, and what it means. A capital makes the difference
    # between an address on the network, which is said alone, and a port, at the end of what the system says.
    (re.compile("assign requested address"), _bad_publish),
    (re.compile("already allocated|address already in use|orts are not available"), _port_taken),
    (re.compile("Address already in use"), _address_taken),
    (_NO_PROGRAM, _no_server_to_start),
)
