"""The process runtime: servers as local processes, one folder per cluster under a state root.

``<root>/<cluster>/cluster.json`` is the counterpart of a container's labels: identity and constants. Beside it each
node has a folder with its configuration, data and log. The cluster's folder appears with its record in it, by one
rename, so that a folder without a record is never ours.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from filelock import FileLock, Timeout

from bootstrap.concurrency import in_thread
from bootstrap.errors import Conflict, NodeFailed, PortTaken, RuntimeUnavailable
from bootstrap.events import Reporter
from bootstrap.judging.evidence import Server
from bootstrap.planning.plan import CONFIG_FILE, Facts, Plan, PlannedNode
from bootstrap.planning.ports import taken_error
from bootstrap.planning.site import Host, ServerInfo, Site
from bootstrap.runtimes import daemons, listening
from bootstrap.runtimes.base import LOG_LINES, Action, NodeRecord, Record, Secrets, Vantage
from bootstrap.runtimes.binaries import find_server
from bootstrap.runtimes.claims import claimed, default_root, state_error
from bootstrap.runtimes.dialling import LocalVantage
from bootstrap.runtimes.keeping import FOLDER, keep_files, kept_files
from bootstrap.runtimes.records import dump_record, load_record, newcomers, reserved_ports

RECORD_FILE = "cluster.json"
PORTS_LOCK = ".ports"
FOLLOW_SECONDS = 0.2


class ProcessRuntime:
    """See `bootstrap.runtimes.base.Runtime`.

    Args:
        root: the state root; None takes `default_root`.
        server: path of the server binary; None looks for one.
        owner: the process that what is created belongs to: it is an orphan when that is gone.
    """

    kind = "process"

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, server: str | None = None, owner: int | None = None
    ) -> None:
        self.root = Path(root).expanduser().absolute() if root is not None else default_root()
        self._given_server = server
        self._owner = owner
        self._server: ServerInfo | None = None

    async def fetch(self, record: Record | None, reporter: Reporter) -> None:
        """See `Runtime.fetch`: a binary is here, or it is not."""

    async def survey(self, record: Record | None = None, *, names: Collection[str] = ()) -> Site:
        """See `Runtime.survey`."""
        del names  # local processes announce no names
        return await in_thread(self._survey, record)

    async def inventory(self, name: str | None = None) -> Sequence[Record]:
        """See `Runtime.inventory`; records that cannot be read raise `Conflict` only when asked for by name."""
        return await in_thread(self._inventory, name)

    def claim(self, name: str) -> AbstractAsyncContextManager[None]:
        """See `Runtime.claim`: a lock file beside the cluster's folder, gone again afterwards."""
        return claimed(self.root, f".{name}.lock", name)

    async def prepare(self, plan: Plan) -> Facts:
        """See `Runtime.prepare`."""
        return await in_thread(self._prepare, plan)

    async def amend(self, plan: Plan) -> None:
        """See `Runtime.amend`: another record takes the place of the one there is."""
        await in_thread(self._amend, plan)

    async def start(self, name: str, node: PlannedNode, files: Mapping[str, bytes]) -> None:
        """See `Runtime.start`."""
        await in_thread(self._start, name, node, files)

    async def put(self, name: str, node: str, files: Mapping[str, bytes]) -> None:
        """See `Runtime.put`."""
        await in_thread(self._put, self._folder(name) / node, files)

    async def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """See `Runtime.keep`: in the cluster's folder."""
        await in_thread(keep_files, self._folder(name) / FOLDER, files)

    async def kept(self, name: str) -> Secrets:
        """See `Runtime.kept`."""
        return await in_thread(kept_files, self._folder(name) / FOLDER)

    async def control(self, name: str, node: str, action: Action) -> None:
        """See `Runtime.control`."""
        await in_thread(self._control, name, node, action)

    async def logs(self, name: str, node: str, *, tail: int | None = None) -> str:
        """See `Runtime.logs`."""
        return await in_thread(_read_log, self._folder(name) / node, tail)

    async def follow(self, name: str, node: str, *, tail: int | None = 0) -> AsyncIterator[str]:
        """See `Runtime.follow`."""
        path = self._folder(name) / node / daemons.LOG_FILE
        read = await in_thread(_read_from, path, 0)
        while read is not None:
            text, offset = read
            if told := _last_lines(text, tail):
                yield told
            tail = None
            await anyio.sleep(FOLLOW_SECONDS)
            read = await in_thread(_read_from, path, offset)

    async def remove(self, name: str, nodes: Collection[str] | None = None) -> Sequence[str]:
        """See `Runtime.remove`."""
        return await in_thread(self._remove, name, nodes)

    async def inspect(self, name: str) -> Mapping[str, Server]:
        """See `Runtime.inspect`."""
        return await in_thread(self._servers, name)

    def vantages(self, record: Record) -> Sequence[Vantage]:
        """See `Runtime.vantages`: every node of every cluster is on this machine."""
        del record
        return (LocalVantage(),)

    # What follows blocks, and runs in a thread.

    def _folder(self, name: str) -> Path:
        return self.root / name

    def _survey(self, record: Record | None) -> Site:
        server = find_server(self._given_server or (record.server_path if record else None))
        self._server = server
        records = self._inventory(None)
        return Site(
            runtime=self.kind,
            hosts=(Host(platform.node() or "localhost"),),
            server=server,
            taken_ports=_name_ours(listening.taken_ports(), records),
            reserved_ports=reserved_ports(records),
            ephemeral_ports=listening.ephemeral_ports(),
            seed=secrets.randbelow(2**32),
        )

    def _inventory(self, name: str | None) -> tuple[Record, ...]:
        if name is not None:
            record = self._record(self._folder(name))
            return () if record is None else (record,)
        try:
            folders = sorted(path for path in self.root.iterdir() if (path / RECORD_FILE).exists())
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise state_error(self.root, error) from error
        return tuple(filter(None, map(self._readable_record, folders)))

    def _readable_record(self, folder: Path) -> Record | None:
        try:
            return self._record(folder)
        except Conflict:
            return None

    def _record(self, folder: Path) -> Record | None:
        try:
            text = (folder / RECORD_FILE).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise state_error(folder, error) from error
        try:
            record = load_record(text, runtime=self.kind, folder=str(folder))
        except ValueError as error:
            raise Conflict(
                f"{folder / RECORD_FILE} cannot be read: {error}", code="bad-record",
                hint=f"if it is yours and nothing runs in it, remove {folder}",
            ) from error  # fmt: skip
        alive = daemons.running([folder / node.name for node in record.nodes])
        nodes = tuple(_with_process(node, alive.get(folder / node.name)) for node in record.nodes)
        return replace(record, nodes=nodes, orphan=daemons.owner_gone(record.owner))

    def _prepare(self, plan: Plan) -> Facts:
        folder = self._folder(plan.name)
        with _state_errors(folder), _ports_lock(self.root):
            existing = self._record(folder)
            if existing is None:
                self._check_ports(plan)
                self._make_folder(folder, plan)
            for node in plan.nodes:
                (folder / node.name).mkdir(mode=0o700, exist_ok=True)
        return Facts({"folder": str(folder)})

    def _check_ports(self, plan: Plan) -> None:
        """Refuse ports that somebody took since the survey: a listener, or a cluster that was recorded meanwhile."""
        strict = isinstance(plan.spec.base_port, int)
        _refuse_taken(plan.nodes, {} if strict else reserved_ports(self._inventory(None)))

    def _amend(self, plan: Plan) -> None:
        folder = self._folder(plan.name)
        with _state_errors(folder), _ports_lock(self.root):
            existing = self._record(folder)
            if existing is None:
                raise _not_prepared(plan.name)
            others = [record for record in self._inventory(None) if record.name != plan.name]
            _refuse_taken(newcomers(plan, existing), reserved_ports(others))
            for node in plan.nodes:
                (folder / node.name).mkdir(mode=0o700, exist_ok=True)
            record = dump_record(plan, created_at=existing.created_at, owner=dict(existing.owner))
            daemons.replace_private(folder / RECORD_FILE, record.encode())

    def _make_folder(self, folder: Path, plan: Plan) -> None:
        for leftover in self.root.glob(f".new-{plan.name}-*"):
            shutil.rmtree(leftover)
        if folder.exists():
            raise Conflict(
                f"{folder} exists and holds no cluster of ours",
                code="folder-taken",
                hint="choose another --name or --state-root",
            )
        made = Path(tempfile.mkdtemp(prefix=f".new-{plan.name}-", dir=self.root))
        try:
            created_at = datetime.now(UTC).isoformat(timespec="seconds")
            record = dump_record(plan, created_at=created_at, owner=daemons.owner(self._owner) if self._owner else {})
            daemons.write_private(made / RECORD_FILE, record.encode())
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def _start(self, name: str, node: PlannedNode, files: Mapping[str, bytes]) -> None:
        folder = self._folder(name) / node.name
        if not (self._folder(name) / RECORD_FILE).exists():
            raise _not_prepared(name)
        # A folder without a configuration has never had a server: no need to look through all processes for one.
        if (folder / CONFIG_FILE).exists() and daemons.running([folder]):
            return
        server = self._server or find_server(self._given_server)
        if busy := listening.busy_ports((node.addresses.control.port, node.addresses.bus_port)):
            raise taken_error(listening.holders(busy))
        with _state_errors(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._put(folder, files)
            daemons.spawn(server.path, folder / CONFIG_FILE, folder)

    def _put(self, folder: Path, files: Mapping[str, bytes]) -> None:
        with _state_errors(folder):
            for file, content in files.items():
                daemons.write_private(folder / file, content)

    def _control(self, name: str, node: str, action: Action) -> None:
        pid = daemons.running([folder := self._folder(name) / node]).get(folder)
        if pid is None:
            raise NodeFailed(
                f"{node} does not run",
                code="not-running",
                hint=f"start it: `valkey-bootstrap create --name {name}`",
            )
        if action in ("pause", "resume"):
            daemons.signal_process(pid, pause=action == "pause")
        elif daemons.end([pid], kill=action == "kill"):
            raise NodeFailed(f"{node} (pid {pid}) did not end within {daemons.KILL_SECONDS:g} s", code="does-not-end")

    def _servers(self, name: str) -> dict[str, Server]:
        record = self._record(self._folder(name))
        folders = {node.name: self._folder(name) / node.name for node in record.nodes} if record else {}
        alive = daemons.running(list(folders.values()))
        return {node: _server(folder, alive.get(folder)) for node, folder in folders.items()}

    def _remove(self, name: str, nodes: Collection[str] | None) -> tuple[str, ...]:
        folder = self._folder(name)
        for leftover in self.root.glob(f".new-{name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        # The lock of a command that was killed goes as well; one that is held is somebody's, and goes with him.
        with suppress(Timeout), _ports_lock(self.root, timeout=0):
            pass
        if not (folder / RECORD_FILE).exists():
            return ()
        names = nodes if nodes is not None else [path.name for path in folder.iterdir() if path.is_dir()]
        alive = daemons.running([folder / each for each in names])
        # Killed rather than stopped: the data goes with them, and saving it first would only take time.
        left = [f"process {pid}" for pid in daemons.end(list(alive.values()), kill=True)]
        for path in [folder / each for each in names] if nodes is not None else [folder]:
            left += _remove_tree(path)
        return tuple(left)


def _not_prepared(name: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(f'"{name}" was not prepared', code="not-prepared")


def _refuse_taken(nodes: Sequence[PlannedNode], reserved: Mapping[int, str]) -> None:
    """Raise `PortTaken` for ports of these nodes that somebody listens at, or has reserved."""
    ports = [port for node in nodes for port in (node.addresses.control.port, node.addresses.bus_port)]
    taken = listening.holders(busy) if (busy := listening.busy_ports(ports)) else {}
    taken |= {port: reserved[port] for port in ports if port in reserved and port not in taken}
    if taken:
        raise taken_error(taken)


def _with_process(node: NodeRecord, pid: int | None) -> NodeRecord:
    return replace(node, running=pid is not None, detail=f"pid {pid}" if pid is not None else "")


def _server(folder: Path, pid: int | None) -> Server:
    log = _read_log(folder, LOG_LINES)
    if pid is None:
        return Server("stopped" if (folder / CONFIG_FILE).exists() else "missing", log=log)
    return Server("paused" if daemons.paused(pid) else "running", f"pid {pid}", log=log)


def _name_ours(taken: Mapping[int, str], records: Sequence[Record]) -> dict[int, str]:
    ours = reserved_ports([record for record in records if record.running])
    return {port: ours.get(port, holder) for port, holder in taken.items()}


@contextmanager
def _ports_lock(root: Path, *, timeout: float = 30) -> Iterator[None]:
    """Held while a block is checked and recorded, so that two clusters never choose the same one."""
    lock = FileLock(root / PORTS_LOCK, timeout=timeout)
    with lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def _state_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (PortTaken, Conflict):
        raise
    except OSError as error:
        raise state_error(path, error) from error


def _read_log(folder: Path, tail: int | None) -> str:
    read = _read_from(folder / daemons.LOG_FILE, 0)
    return "" if read is None else _last_lines(read[0], tail)


def _read_from(path: Path, offset: int) -> tuple[str, int] | None:
    """What a file holds from an offset on, and the offset behind it; None when its folder is gone."""
    try:
        with path.open("rb") as file:
            # A file that became shorter was begun anew.
            file.seek(offset if offset <= os.fstat(file.fileno()).st_size else 0)
            content = file.read()
            return content.decode(errors="replace"), file.tell()
    except FileNotFoundError:
        return ("", 0) if path.parent.exists() else None


def _last_lines(text: str, tail: int | None) -> str:
    if tail is None:
        return text
    return "".join(text.splitlines(keepends=True)[-tail:]) if tail else ""


def _remove_tree(path: Path) -> list[str]:
    left: list[str] = []

    def note(_function: object, name: str, error: Any) -> None:
        if not isinstance(error[1], FileNotFoundError):
            left.append(f"{name} ({error[1]})")

    if path.exists():
        shutil.rmtree(path, onerror=note)
    return left
