"""Where the engine runs, and what is taken there."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker

from bootstrap.judging.evidence import Server, ServerState
from bootstrap.planning.addressing import LOOPBACK, Address
from bootstrap.planning.site import EnginePlace
from bootstrap.runtimes import listening
from bootstrap.runtimes.engine import labels

_SOCKET = "unix:///var/run/docker.sock"
_CONTAINER_NAME = re.compile("[0-9a-f]{12}")
"""What a container calls itself where nobody says otherwise: the beginning of its id."""


_CONTAINED = ("/.dockerenv", "/run/.containerenv")
"""What Docker and Podman leave in every container."""


def endpoint() -> str:
    """Where the engine is asked: ``DOCKER_HOST``, the current context, or the usual socket."""
    return os.environ.get("DOCKER_HOST") or docker.ContextAPI.kwargs_from_context().get("base_url") or _SOCKET


def machine_of(host: str) -> str:
    """The host that an engine is asked at, our own name where that is a socket or a pipe.

    Args:
        host: how it is asked, such as ``tcp://docker:2376`` or ``ssh://me@far``.
    """
    return urlsplit(host).hostname or socket.gethostname()


def knock(seconds: float) -> None:
    """Connect once to the engine's socket, where it has one; the SDK forgets to close its own when that fails.

    Raises:
        OSError: what keeps us from it.
    """
    scheme, _, path = endpoint().rpartition("unix://")
    if scheme in ("", "http+") and path.startswith("/"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(seconds)
            probe.connect(path)


def engine_place(
    host: str, info: Mapping[str, Any], containers: Collection[str], *, machine: str, system: str, contained: bool
) -> EnginePlace:
    """Where an engine runs, seen from here.

    Args:
        host: how it is asked, such as ``unix:///var/run/docker.sock``.
        info: what it says of itself.
        containers: ids of its containers.
        machine: our host name; in a container that is the beginning of its id, unless told otherwise.
        system: our platform, as in `sys.platform`.
        contained: whether we run in a container.
    """
    # Desktop goes first: it may be asked over TCP, too, and its ports are ours.
    if "Docker Desktop" in str(info.get("OperatingSystem")):
        return "desktop"
    name = str(info.get("Name"))
    if not host.startswith(("unix://", "npipe://", "/")) and name != machine:
        beside = contained and _CONTAINER_NAME.fullmatch(name)
        if not beside or machine_of(host) not in ("localhost", LOOPBACK):
            return "dind" if beside else "remote"
        # Both containers share a network: what the engine makes there is before us as on any Linux machine.
    if system != "linux":
        return "desktop"
    if contained and any(each.startswith(machine) for each in containers):
        return "nested"
    if any("rootless" in option for option in info.get("SecurityOptions") or ()):
        return "rootless"
    return "local"


def find_place(info: Mapping[str, Any], containers: Collection[str]) -> EnginePlace:
    """Where the engine runs, seen from this process."""
    return engine_place(
        endpoint(),
        info,
        containers,
        machine=socket.gethostname(),
        system=sys.platform,
        contained=any(Path(each).exists() for each in _CONTAINED),
    )


def taken_ports(containers: Sequence[Mapping[str, Any]], *, here: bool) -> dict[int, str]:
    """TCP port -> holder, of what containers publish and, if the engine is on this machine, of what listens here."""
    taken = listening.taken_ports() if here else {}
    for each in containers:
        cluster = each["Labels"].get(labels.CLUSTER)
        holder = f'the cluster "{cluster}"' if cluster else f"the container {each['Names'][0].lstrip('/')}"
        ports = [port for port in each["Ports"] or () if port.get("Type", "tcp") == "tcp"]
        taken |= {int(port["PublicPort"]): holder for port in ports if port.get("PublicPort")}
    return taken


def subnets(networks: Sequence[Mapping[str, Any]]) -> set[str]:
    """The subnets of the engine's networks."""
    configs = [config for each in networks for config in each["IPAM"]["Config"] or ()]
    # Engines before 25 take a host's address for a subnet, and tell it as it was given.
    return {str(ipaddress.ip_network(each["Subnet"], strict=False)) for each in configs if each.get("Subnet")}


def server_of(inspected: Mapping[str, Any], log: str) -> Server:
    """What the engine says of one container, from `inspect`."""
    state, host = inspected["State"], inspected["HostConfig"]
    settings = inspected["NetworkSettings"]
    bindings = {int(port.partition("/")[0]): places for port, places in (settings.get("Ports") or {}).items()}
    names = [
        entry.rpartition(":") if entry.count(":") == 1 else entry.partition(":")
        for entry in host.get("ExtraHosts") or ()
    ]
    kind: ServerState = "paused" if state.get("Paused") else "running" if state.get("Running") else "stopped"
    ended = "ran out of memory" if state.get("OOMKilled") else f"exited with {state.get('ExitCode')}"
    return Server(
        state=kind,
        detail=ended if kind == "stopped" else f"container {inspected['Id'][:12]}",
        container=inspected["Name"].lstrip("/"),
        addresses=tuple(each["IPAddress"] for each in settings["Networks"].values() if each.get("IPAddress")),
        published={
            port: tuple(Address(place["HostIp"], int(place["HostPort"])) for place in places or ())
            for port, places in bindings.items()
        },
        names={name: address for name, _, address in names},
        log=log,
    )


def leads_to(listed: Mapping[str, Any], address: Address) -> bool:
    """Whether an address leads to a container, as the engine lists it: by its own address or by a published port."""
    networks = (listed.get("NetworkSettings") or {}).get("Networks") or {}
    if address.host in {each.get("IPAddress") for each in networks.values()}:
        return True
    return any(
        port.get("PublicPort") == address.port and port.get("IP") in (address.host, "0.0.0.0")  # noqa: S104
        for port in listed.get("Ports") or ()
    )
