"""The engine runtime: one container per node, on a network of the cluster's own.

What is made: a bridge network (``valkey-net``), whose labels hold the cluster's record; for every node a volume
(``valkey0-data``) and a container (``valkey0``) with a fixed address. Everything carries the label
``valkey-bootstrap.cluster``, and nothing without it is touched. The SDK blocks: all of its calls run in threads.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import anyio
import anyio.from_thread
import docker
from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool, LogConfig, Mount

from bootstrap.concurrency import THREADS, in_asking_thread, in_thread, to_the_end, together
from bootstrap.errors import BootstrapError, Conflict, RuntimeUnavailable, Taken
from bootstrap.events import Reporter
from bootstrap.judging.evidence import Server
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import (
    CONFIG_FILE,
    DATA_FOLDER,
    VOLUME_FOLDER,
    Container,
    Facts,
    Plan,
    PlannedNode,
    bind,
)
from bootstrap.planning.ports import taken_error
from bootstrap.planning.site import Engine, EnginePlace, Host, Site
from bootstrap.planning.spec import DEFAULT_IMAGE, Pull
from bootstrap.planning.subnets import Network
from bootstrap.planning.text import listing
from bootstrap.runtimes import addresses, daemons, listening
from bootstrap.runtimes.base import LOG_LINES, Action, Record, Secrets, Vantage
from bootstrap.runtimes.claims import claimed, default_root
from bootstrap.runtimes.dialling import LocalVantage
from bootstrap.runtimes.engine import labels, locks
from bootstrap.runtimes.engine.archives import SERVER_UID, pack
from bootstrap.runtimes.engine.facts import (
    endpoint,
    find_place,
    knock,
    leads_to,
    machine_of,
    server_of,
    subnets,
    taken_ports,
)
from bootstrap.runtimes.engine.failures import (
    API_SECONDS,
    CONTACT_SECONDS,
    control_error,
    engine_errors,
    gone,
    not_running,
    said_by,
    start_error,
    taken_by_strangers,
)
from bootstrap.runtimes.engine.images import Images
from bootstrap.runtimes.engine.netns import NamespaceVantage, can_enter
from bootstrap.runtimes.engine.sidecar import SidecarVantage
from bootstrap.runtimes.keeping import FOLDER, drop_files, keep_files, kept_files
from bootstrap.runtimes.records import newcomers, reserved_ports

STOP_SECONDS = 10
FOLLOW_SECONDS = 0.2
LOG_BYTES = "10m"

_UP = frozenset({"running", "paused"})
_HERE: Collection[EnginePlace] = ("local", "rootless", "desktop")
"""Where an engine is whose published ports are this machine's."""


@dataclass(frozen=True, slots=True)
class _Owned:
    """An object of ours: its kind, its id, its name, and the node that it belongs to."""

    kind: Literal["container", "volume", "network"]
    id: str
    name: str
    node: str = ""


class EngineRuntime:
    """See `bootstrap.runtimes.base.Runtime`.

    Args:
        root: where secrets are kept; None takes `default_root`.
        image: what containers run; None takes `DEFAULT_IMAGE`.
        pull: when the image is pulled.
        owner: the process that what is created belongs to: it is an orphan when that is gone.
    """

    kind = "docker"

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        image: str | None = None,
        pull: Pull = "missing",
        owner: int | None = None,
    ) -> None:
        self._root = Path(root).expanduser().absolute() if root is not None else default_root()
        self._given_image = image
        self._pull = pull
        self._owner = owner
        self._made: docker.DockerClient | None = None
        self._making = threading.Lock()
        self._place: EnginePlace | None = None
        self._pids: dict[tuple[str, str], int] = {}
        self._images = Images(lambda: self._api)

    async def describe(self) -> str:
        """The engine in words, such as ``Docker Engine 28.2.2 at unix:///var/run/docker.sock``.

        Raises:
            RuntimeUnavailable: none answers; code ``no-engine`` where none is there at all.
        """
        return await in_thread(self._describe)

    async def fetch(self, record: Record | None, reporter: Reporter) -> None:
        """See `Runtime.fetch`: pulls the image."""
        image = self._image(record)
        if not await in_thread(self._images.must_pull, image, self._pull):
            return
        with reporter.phase("pull", f"Pulling {image}", f"Pulled {image}") as phase:
            await in_asking_thread(self._images.pull, image, phase)

    async def survey(self, record: Record | None = None, *, names: Collection[str] = ()) -> Site:
        """See `Runtime.survey`."""
        return await in_thread(self._survey, record, tuple(names))

    async def inventory(self, name: str | None = None) -> Sequence[Record]:
        """See `Runtime.inventory`; labels that cannot be read raise `Conflict` only when asked for by name."""
        return await in_thread(self._inventory, name)

    def claim(self, name: str) -> AbstractAsyncContextManager[None]:
        """See `Runtime.claim`: a lock file in the user's state folder, and a lock at the engine."""
        return self._claim(name)

    async def prepare(self, plan: Plan) -> Facts:
        """See `Runtime.prepare`: makes the network, which is the cluster's record."""
        return await in_thread(self._prepare, plan)

    async def amend(self, plan: Plan) -> None:
        """See `Runtime.amend`: a volume with the new record goes before the network, whose labels cannot change."""
        await in_thread(self._amend, plan)

    async def start(self, name: str, node: PlannedNode, files: Mapping[str, bytes]) -> None:
        """See `Runtime.start`."""
        await in_thread(self._start, name, node, files)

    async def control(self, name: str, node: str, action: Action) -> None:
        """See `Runtime.control`."""
        await in_thread(self._control, name, node, action)

    async def logs(self, name: str, node: str, *, tail: int | None = None) -> str:
        """See `Runtime.logs`."""
        return await in_thread(self._logs, name, node, tail)

    async def follow(self, name: str, node: str, *, tail: int | None = 0) -> AsyncIterator[str]:
        """See `Runtime.follow`: whole lines, asked for again and again; a stream would end with the container's run."""
        last, seen = "", False
        while True:
            read = await in_thread(self._log_after, name, node, last, tail)
            if read is None and (seen or not await self._has(name, node)):
                return
            if read is not None:
                text, last = read
                seen = True
                if text:
                    yield text
            # What a container that was not there at first will write is new from its first line on.
            tail = None
            await anyio.sleep(FOLLOW_SECONDS)

    async def _has(self, name: str, node: str) -> bool:
        return any(node == each.name for record in await self.inventory(name) for each in record.nodes)

    async def remove(self, name: str, nodes: Collection[str] | None = None) -> Sequence[str]:
        """See `Runtime.remove`."""
        found = await in_thread(self._removable, name, nodes)
        left: list[str] = []
        # Containers first: a volume or a network that is in use cannot go.
        for kind in ("container", "volume", "network"):
            await together(partial(self._remove_one, each, left) for each in found if each.kind == kind)
        if nodes is None and not left:
            await in_thread(lambda: drop_files(self._secrets(name)))
        return tuple(sorted(left))

    async def put(self, name: str, node: str, files: Mapping[str, bytes]) -> None:
        """See `Runtime.put`."""
        await in_thread(self._put, name, node, files)

    async def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """See `Runtime.keep`: the engine holds no secret, a folder of this machine does."""
        await in_thread(lambda: keep_files(self._secrets(name), files))

    async def kept(self, name: str) -> Secrets:
        """See `Runtime.kept`."""
        return await in_thread(lambda: kept_files(self._secrets(name)))

    async def inspect(self, name: str) -> Mapping[str, Server]:
        """See `Runtime.inspect`."""
        return await in_thread(self._servers, name)

    def vantages(self, record: Record) -> Sequence[Vantage]:
        """See `Runtime.vantages`: inside every container, or by a container beside it where we may not enter."""
        enter = self._place == "local" and can_enter()
        # Where this machine routes to containers, it sees them as they see each other.
        here = LocalVantage(beside=self._place == "local" and not enter)
        return (here, *(self._inside(record.name, node.name, enter=enter) for node in record.nodes))

    def _inside(self, name: str, node: str, *, enter: bool) -> Vantage:
        if enter:
            return NamespaceVantage(f"inside {node}", node, partial(self._pid_of, name, node))
        return SidecarVantage(f"beside {node}", node, lambda: self._api, partial(self._inspected, name, node))

    async def containers_at(self, addresses: Mapping[str, Address]) -> dict[str, tuple[Server, Vantage | None]]:
        """The containers, whoever made them, that these addresses lead to; with a place inside where one can be had.

        Args:
            addresses: by node name, as they are reached from here.

        Raises:
            RuntimeUnavailable: the engine cannot be asked.
        """
        return await in_thread(self._containers_at, dict(addresses))

    # What follows blocks, and runs in a thread.

    @property
    def _api(self) -> docker.APIClient:
        with self._making:
            if self._made is None:
                with engine_errors("reach the engine", seconds=CONTACT_SECONDS):
                    knock(CONTACT_SECONDS)
                    made = docker.from_env(timeout=CONTACT_SECONDS, max_pool_size=THREADS)
                # Whether there is one at all is known soon; what it is asked to do may take longer.
                made.api.timeout = API_SECONDS
                self._made = made
            return self._made.api

    def _describe(self) -> str:
        with engine_errors("reach the engine"):
            version = self._api.version()
        return f"Docker Engine {version['Version']} at {endpoint()}"

    def _image(self, record: Record | None) -> str:
        return self._given_image or (record.server_path if record else DEFAULT_IMAGE)

    def _survey(self, record: Record | None, names: tuple[str, ...]) -> Site:
        api, image = self._api, self._image(record)
        with engine_errors("survey the engine"):
            info, version = api.info(), api.version()["Version"]
            containers, networks = api.containers(all=True), api.networks()
        place = self._place = find_place(info, [each["Id"] for each in containers])
        taken = taken_ports(containers, here=place in _HERE)
        machine = machine_of(endpoint())
        server, assumptions = self._images.server(image)
        return Site(
            runtime=self.kind,
            hosts=(Host(info.get("Name") or machine),),
            server=server,
            taken_ports=taken,
            reserved_ports=reserved_ports(self._inventory(None)),
            ephemeral_ports=listening.ephemeral_ports(),
            seed=secrets.randbelow(2**32),
            assumptions=assumptions,
            engine=Engine(
                place,
                version,
                machine,
                tuple(sorted({*subnets(networks), *(addresses.routed_subnets() if place == "local" else ())})),
                addresses.room_for_neighbours() if place == "local" else 0,
            ),
            names=addresses.resolve({*names, machine}),
        )

    def _inventory(self, name: str | None) -> tuple[Record, ...]:
        wanted = {"label": labels.CLUSTER if name is None else f"{labels.CLUSTER}={name}"}
        with engine_errors("list clusters"):
            networks = self._api.networks(filters=wanted)
            containers = self._api.containers(all=True, filters=wanted)
            volumes = self._api.volumes(filters=wanted).get("Volumes") or []
        of_network = {each["Labels"][labels.CLUSTER]: each["Labels"] for each in networks}
        renewals = _by_cluster([each for each in volumes if labels.GENERATION in each["Labels"]])
        volumes = [each for each in volumes if labels.GENERATION not in each["Labels"]]
        of_containers = _by_cluster(containers)
        # A cluster whose containers and network were pruned away has its data, and is still one.
        of_nodes = _by_cluster([*volumes, *containers])
        records = []
        for cluster in sorted({*of_network, *renewals, *of_nodes}):
            mine = of_containers.get(cluster, [])
            members = {each["Labels"].get(labels.NODE, ""): each["Labels"] for each in of_nodes.get(cluster, [])}
            try:
                record = labels.read_record(
                    of_network.get(cluster),
                    list(members.values()),
                    runtime=self.kind,
                    renewals=[each["Labels"] for each in renewals.get(cluster, [])],
                )
            except ValueError as error:
                if name is None:
                    continue
                raise Conflict(
                    f'the labels of "{cluster}" cannot be read: {error}',
                    code="bad-record",
                    hint=f"if it is yours, remove what `docker ps -a --filter label={labels.CLUSTER}={cluster}` lists",
                ) from error
            states = {
                each["Labels"].get(labels.NODE, ""): (each["State"] in _UP, f"container {each['Id'][:12]}")
                for each in mine
            }
            records.append(labels.with_states(record, states))
        return tuple(records)

    @asynccontextmanager
    async def _claim(self, name: str) -> AsyncIterator[None]:
        engine = await in_thread(self._engine_id)
        # The file lets go by itself when this process is killed; the engine's lock excludes users with other files.
        async with claimed(default_root(), f".{engine}-{name}.lock", name):
            held: list[str] = []
            try:
                await in_thread(lambda: held.append(locks.take(self._api, name)))
                yield
            finally:
                for mark in held:
                    await to_the_end(partial(in_thread, locks.let_go, self._api, name, mark))

    def _secrets(self, name: str) -> Path:
        # Another engine may have a cluster of the same name.
        return self._root / f".{self._engine_id()}-{name}.{FOLDER}"

    def _engine_id(self) -> str:
        with engine_errors("reach the engine"):
            return "engine-" + re.sub(r"\W", "", str(self._api.info().get("ID") or "unknown"))[:12].lower()

    def _prepare(self, plan: Plan) -> Facts:
        assert plan.network is not None, "containers are planned with a network"
        existing = self._network(plan.name)
        self._refuse_strangers(plan)
        facts = self._facts(plan)
        if existing is None:
            with engine_errors(f"make the network {plan.network.name}"):
                self._make_network(plan.network, bind(plan, facts))
        return facts

    def _amend(self, plan: Plan) -> None:
        existing = next(iter(self._inventory(plan.name)), None)
        if existing is None:
            raise RuntimeUnavailable(f'"{plan.name}" was not prepared', code="not-prepared")
        self._refuse_strangers(plan)
        self._refuse_taken(newcomers(plan, existing))
        bound = bind(plan, self._facts(plan))
        wanted = labels.network_labels(bound, created_at=existing.created_at, owner=dict(existing.owner))
        with engine_errors(f"record {plan.name}"):
            found = self._api.volumes(filters={"label": f"{labels.CLUSTER}={plan.name}"}).get("Volumes") or ()
            had = {labels.generation_of(each["Labels"]): each for each in found if labels.GENERATION in each["Labels"]}
            latest = max(had, default=0)
            if not had or had[latest]["Labels"].get(labels.RECORD) != wanted[labels.RECORD]:
                self._renew(plan.name, latest + 1, wanted)
                latest += 1
            # Those before, and what a command that was killed just here left of them.
            for each in (had[number] for number in had if number < latest):
                with suppress(NotFound):
                    self._api.remove_volume(each["Name"])

    def _renew(self, name: str, generation: int, wanted: Mapping[str, str]) -> None:
        volume = labels.renewal_name(name, generation)
        self._api.create_volume(volume, labels={**wanted, labels.GENERATION: str(generation)})
        # One that exists is given as it is.
        made = self._api.inspect_volume(volume)
        if (made.get("Labels") or {}).get(labels.RECORD) != wanted[labels.RECORD]:
            raise taken_by_strangers("volume", [volume])

    def _refuse_taken(self, nodes: Sequence[PlannedNode]) -> None:
        """Raise `PortTaken` for ports that are to be published and are taken."""
        wanted = {each.port for node in nodes if node.container for each in node.container.published}
        if not wanted:
            return
        with engine_errors("look for ports that are taken"):
            containers = self._api.containers(all=True)
            if self._place is None:
                self._place = find_place(self._api.info(), [each["Id"] for each in containers])
        taken = taken_ports(containers, here=self._place in _HERE)
        if found := {port: taken[port] for port in wanted if port in taken}:
            raise taken_error(found)

    def _facts(self, plan: Plan) -> Facts:
        mapped = {address for node in plan.nodes if node.container for _, address in node.container.hosts}
        if "host-gateway" not in mapped:
            return Facts({})
        return Facts({"host_gateway": self._images.host_gateway(plan.server)})

    def _network(self, name: str) -> dict[str, Any] | None:
        with engine_errors(f"look for the network of {name}"):
            found: list[dict[str, Any]] = self._api.networks(filters={"label": f"{labels.CLUSTER}={name}"})
        return found[0] if found else None

    def _refuse_strangers(self, plan: Plan) -> None:
        """Raise `Conflict` where something of our names exists that is not ours."""
        assert plan.network is not None
        wanted = {node.name for node in plan.nodes}
        volumes = {node.container.volume for node in plan.nodes if node.container and node.container.volume}
        with engine_errors("look for strangers"):
            found = [
                *(("network", each["Name"], each) for each in self._api.networks(names=[plan.network.name])),
                *(("container", each["Names"][0].lstrip("/"), each) for each in self._api.containers(all=True)),
                *(("volume", each["Name"], each) for each in self._api.volumes().get("Volumes") or ()),
            ]
        ours = {"network": {plan.network.name}, "container": wanted, "volume": volumes}
        strangers: dict[str, list[str]] = {}
        for kind, name, each in found:
            if name in ours[kind] and (each.get("Labels") or {}).get(labels.CLUSTER) != plan.name:
                strangers.setdefault(kind, []).append(name)
        for kind, names in strangers.items():
            raise taken_by_strangers(kind, sorted(names))

    def _make_network(self, network: Network, plan: Plan) -> None:
        owner = daemons.owner(self._owner) if self._owner else {}
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self._api.create_network(
                network.name,
                driver="bridge",
                ipam=IPAMConfig(
                    pool_configs=[IPAMPool(subnet=network.subnet, iprange=network.clients, gateway=network.gateway)]
                ),
                labels=labels.network_labels(plan, created_at=created_at, owner=owner),
                check_duplicate=True,
            )
        except APIError as error:
            if "overlap" in said_by(error):
                raise Taken(
                    f"the subnet {network.subnet} was taken",
                    code="subnet-taken",
                    hint="run the same command again",
                ) from error
            raise

    def _start(self, name: str, node: PlannedNode, files: Mapping[str, bytes]) -> None:
        network = self._network(name)
        if network is None or node.container is None:
            raise RuntimeUnavailable(f'"{name}" has no network: it was not prepared', code="not-prepared")
        with engine_errors(f"start {node.name}", mapped=partial(start_error, node)):
            found = self._container(name, node.name)
            if found is not None and not _on(found, network["Id"]):
                # Its network was pruned away while it was stopped, and it can never start again. Its data are in
                # the volume.
                self._api.remove_container(found["Id"], force=True)
                found = None
            if found is not None and found["State"] in _UP:
                return
            container = found["Id"] if found is not None else self._create(network, node, node.container)
            self._put_files(container, files, volume=bool(node.container.volume))
            self._api.start(container)

    def _put(self, name: str, node: str, files: Mapping[str, bytes]) -> None:
        with engine_errors(f"put files of {node}"):
            found = self._container(name, node)
            if found is None:
                raise not_running(name, node)
            volumes = {each.get("Destination") for each in found.get("Mounts") or ()}
            self._put_files(found["Id"], files, volume=VOLUME_FOLDER in volumes)

    def _put_files(self, container: str, files: Mapping[str, bytes], *, volume: bool) -> None:
        # Only into a volume where everything else can be read only.
        root = PurePosixPath(VOLUME_FOLDER if volume else "/")
        folder = str(PurePosixPath(DATA_FOLDER).relative_to(root))
        self._api.put_archive(container, str(root), pack(folder, files))

    def _create(self, network: Mapping[str, Any], node: PlannedNode, wanted: Container) -> str:
        api = self._api
        own_labels = labels.node_labels(network["Labels"], node)
        mounts = []
        if wanted.volume:
            mounts = [Mount(VOLUME_FOLDER, wanted.volume, no_copy=True, labels=own_labels)]
        host_config = api.create_host_config(
            network_mode=network["Id"],
            port_bindings=_bindings(wanted.published),
            extra_hosts=dict(wanted.hosts) or None,
            mounts=mounts,
            mem_limit=wanted.memory or None,
            memswap_limit=wanted.memory or None,
            # What died stays down, with its exit code and its log, until the same command starts it again. The other
            # policies would hide crashes and repeat the refusal of a bad setting for ever (on-failure, always), bring
            # up servers at every boot that nobody asked for then (always, unless-stopped), and undo a kill that a
            # test of failovers relies on.
            restart_policy={"Name": "no"},
            # A server needs none of root's powers.
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            # It writes its data and nothing else. Files cannot be put into a container that has no volume then.
            read_only=bool(wanted.volume),
            log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": LOG_BYTES, "max-file": "2"}),
        )
        endpoint_config = api.create_endpoint_config(ipv4_address=wanted.address)
        made = api.create_container(
            image=wanted.image,
            name=node.name,
            hostname=node.name,
            user=f"{SERVER_UID}:{SERVER_UID}",
            # Not the image's own entry point, which changes owners and users as root first.
            entrypoint=[wanted.program],
            command=[f"{DATA_FOLDER}/{CONFIG_FILE}"],
            ports=[(each.port, "tcp") for each in wanted.published],
            host_config=host_config,
            networking_config={"EndpointsConfig": {network["Id"]: endpoint_config}},
            labels=own_labels,
        )
        return str(made["Id"])

    def _container(self, name: str, node: str) -> dict[str, Any] | None:
        """The node's container, as the engine lists it."""
        found: list[dict[str, Any]] = self._api.containers(
            all=True, filters={"label": f"{labels.CLUSTER}={name}", "name": f"^/{node}$"}
        )
        return found[0] if found else None

    def _control(self, name: str, node: str, action: Action) -> None:
        with engine_errors(f"{action} {node}", mapped=partial(control_error, name, node)):
            found = self._container(name, node)
            if found is None or found["State"] not in _UP:
                raise not_running(name, node)
            if action == "stop":
                self._api.stop(found["Id"], timeout=STOP_SECONDS)
            elif action == "kill":
                self._api.kill(found["Id"])
                self._api.wait(found["Id"], timeout=STOP_SECONDS)
            elif action == "pause" and found["State"] == "running":
                self._api.pause(found["Id"])
            elif action == "resume" and found["State"] == "paused":
                self._api.unpause(found["Id"])

    def _logs(self, name: str, node: str, tail: int | None) -> str:
        with engine_errors(f"read the log of {node}"):
            found = self._container(name, node)
            if found is None or tail == 0:
                return ""
            wanted: Literal["all"] | int = "all" if tail is None else tail
            text = self._read_log(found["Id"], tail=wanted)
        return (text or b"").decode(errors="replace")

    def _log_after(self, name: str, node: str, last: str, tail: int | None) -> tuple[str, str] | None:
        """The lines after a moment (RFC 3339, "" for all), and the moment of the last; None without a container."""
        with engine_errors(f"follow the log of {node}"):
            found = self._container(name, node)
            if found is None:
                return None
            # Whole seconds are enough: what was read before is left out below.
            since = datetime.fromisoformat(last[:19]).replace(tzinfo=UTC).timestamp() if last else None
            # One line is read even where none is wanted: what comes after it is new.
            wanted: Literal["all"] | int = "all" if tail is None else max(tail, 1)
            content = self._read_log(found["Id"], timestamps=True, since=since, tail=wanted)
        if content is None:
            return None
        lines = [line.partition(" ") for line in content.decode(errors="replace").splitlines(keepends=True)]
        new = "" if tail == 0 else "".join(text for moment, _, text in lines if moment > last)
        return new, max((moment for moment, _, _ in lines), default=last)

    def _read_log(self, container: str, **wanted: Any) -> bytes | None:
        """What a container logged; None where it is gone by now."""
        try:
            content: bytes = self._api.logs(container, **wanted)
        except APIError as error:
            if gone(error):
                return None
            raise
        return content

    def _removable(self, name: str, nodes: Collection[str] | None) -> list[_Owned]:
        wanted = {"label": f"{labels.CLUSTER}={name}"}
        with engine_errors(f"list what belongs to {name}"):
            containers = [
                _Owned("container", each["Id"], each["Names"][0].lstrip("/"), each["Labels"].get(labels.NODE, ""))
                for each in self._api.containers(all=True, filters=wanted)
            ]
            volumes = [
                _Owned("volume", each["Name"], each["Name"], (each.get("Labels") or {}).get(labels.NODE, ""))
                for each in self._api.volumes(filters=wanted).get("Volumes") or ()
            ]
            networks = [_Owned("network", each["Id"], each["Name"]) for each in self._api.networks(filters=wanted)]
        if nodes is None:
            return [*containers, *volumes, *networks]
        return [each for each in (*containers, *volumes) if each.node in nodes]

    async def _remove_one(self, owned: _Owned, left: list[str]) -> None:
        if reason := await in_thread(self._try_to_remove, owned):
            left.append(f"{owned.kind} {owned.name} ({reason})")

    def _try_to_remove(self, owned: _Owned) -> str:
        """Remove one object by its id; "" or why it is left."""
        try:
            with engine_errors("remove it"), suppress(NotFound):
                if owned.kind == "container":
                    self._remove_container(owned.id)
                elif owned.kind == "volume":
                    self._api.remove_volume(owned.id, force=True)
                elif guests := self._guests(owned.id):
                    return f"in use by {listing(guests, 3)}"
                else:
                    self._api.remove_network(owned.id)
        except BootstrapError as error:
            return error.message
        return ""

    def _remove_container(self, container: str) -> None:
        try:
            # Killed rather than stopped: the data goes with it, and saving it first would only take time.
            # Anonymous volumes, which an image may declare, go as well.
            self._api.remove_container(container, force=True, v=True)
        except APIError as error:
            if error.status_code != 409 or "already in progress" not in said_by(error):
                raise
            # Somebody else has told the engine just now.
            self._api.wait(container, timeout=API_SECONDS, condition="removed")

    def _guests(self, network: str) -> list[str]:
        """Containers of others on a network that is to go: a network in use cannot be removed."""
        attached = self._api.inspect_network(network).get("Containers") or {}
        return [f"the container {each['Name']}" for each in attached.values()]

    def _servers(self, name: str) -> dict[str, Server]:
        found: dict[str, Server] = {}
        records = self._inventory(name)
        with engine_errors(f"look into {name}"):
            if self._place is None:
                self._place = find_place(self._api.info(), [each["Id"] for each in self._api.containers(all=True)])
            for each in self._api.containers(all=True, filters={"label": f"{labels.CLUSTER}={name}"}):
                # It may be gone since it was listed.
                with suppress(NotFound):
                    inspected = self._api.inspect_container(each["Id"])
                    log = self._read_log(each["Id"], tail=LOG_LINES) or b""
                    node = each["Labels"].get(labels.NODE, "")
                    found[node] = server_of(inspected, log.decode(errors="replace"))
                    self._pids[name, node] = int(inspected["State"]["Pid"])
        return {node.name: found.get(node.name, Server("missing")) for record in records for node in record.nodes}

    def _containers_at(self, addresses: dict[str, Address]) -> dict[str, tuple[Server, Vantage | None]]:
        found: dict[str, tuple[Server, Vantage | None]] = {}
        with engine_errors("look for the servers' containers"):
            listed = self._api.containers()
            place = find_place(self._api.info(), [each["Id"] for each in listed])
            for each in listed:
                names = [name for name, address in addresses.items() if leads_to(each, address)]
                with suppress(NotFound):
                    for name in names:
                        inspected = self._api.inspect_container(each["Id"])
                        log = self._read_log(each["Id"], tail=LOG_LINES) or b""
                        server = server_of(inspected, log.decode(errors="replace"))
                        found[name] = (server, None)
                        if place == "local" and can_enter():
                            pid = int(inspected["State"]["Pid"])
                            found[name] = (server, NamespaceVantage(f"inside {server.container}", name, pid))
        return {name: found[name] for name in addresses if name in found}

    def _pid_of(self, name: str, node: str) -> int | None:
        """The process id of a node's server, None if it does not run."""
        if known := self._pids.pop((name, node), 0):
            return known
        found = self._inspected(name, node)
        return None if found is None else int(found["State"]["Pid"])

    def _inspected(self, name: str, node: str) -> dict[str, Any] | None:
        """What the engine says of a node's container, None if it does not run."""
        with engine_errors(f"look into {node}"), suppress(NotFound):
            found = self._container(name, node)
            if found is not None and found["State"] in _UP:
                return dict(self._api.inspect_container(found["Id"]))
        return None


def _by_cluster(objects: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for each in objects:
        found.setdefault(each["Labels"][labels.CLUSTER], []).append(each)
    return found


def _bindings(published: Sequence[Address]) -> dict[int | str, list[tuple[str, int]]]:
    found: dict[int | str, list[tuple[str, int]]] = {}
    for each in published:
        found.setdefault(f"{each.port}/tcp", []).append((each.host, each.port))
    return found


def _on(container: Mapping[str, Any], network: str) -> bool:
    attached = container["NetworkSettings"]["Networks"].values()
    return any(each.get("NetworkID") == network for each in attached)
