"""valkey-cli is the witness: the slots it plans for N primaries are the slots slot_ranges gives them.

Its `--cluster create` runs against a stub that answers as N empty nodes; the plan is read, then declined.
"""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from bootstrap.planning.slots import SlotRange, slot_ranges

pytestmark = pytest.mark.servers

COUNTS = (1, 2, 3, 5, 7, 78, 100, 333, 1000)
PLANNED = re.compile(r"(?:Primary|Master)\[(\d+)\] -> Slots (\d+) - (\d+)$", re.MULTILINE)


def answer(command: str, port: int) -> bytes:
    """Return the RESP2 reply of an empty cluster node that knows only itself."""
    if command.startswith("CLUSTER NODES"):
        text = f"{port:040x} 127.0.0.1:{port}@{port} myself,master - 0 0 0 connected\n"
    elif command.startswith("CLUSTER INFO"):
        text = "cluster_state:fail\r\ncluster_known_nodes:1\r\ncluster_size:0\r\n"
    elif command.startswith("INFO"):
        text = "# Server\r\nvalkey_version:8.1.8\r\n# Cluster\r\ncluster_enabled:1\r\n# Keyspace\r\n"
    else:
        return b"+OK\r\n"
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port = writer.get_extra_info("sockname")[1]
    try:
        while header := await reader.readline():
            words = []
            for _ in range(int(header[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].decode())
            writer.write(answer(" ".join(words).upper(), port))
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        pass  # the caller has left, or the stub stops
    finally:
        writer.close()


class Stub(threading.Thread):
    """An event loop in a thread that is empty cluster nodes on as many loopback ports as asked for."""

    def __init__(self, nodes: int) -> None:
        super().__init__(daemon=True)
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(nodes)]
        self.ports = [listener.getsockname()[1] for listener in self.sockets]
        self.loop = asyncio.new_event_loop()
        self.done = asyncio.Event()

    def run(self) -> None:
        self.loop.run_until_complete(self._listen())
        self.loop.close()

    async def _listen(self) -> None:
        servers = [await asyncio.start_server(serve, sock=listener) for listener in self.sockets]
        await self.done.wait()
        for server in servers:
            server.close()
        callers = asyncio.all_tasks() - {asyncio.current_task()}
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.done.set)
        self.join()


def planned(program: str, ports: list[int]) -> tuple[SlotRange, ...]:
    """Return the ranges that valkey-cli plans for one primary at each port, in its order."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    command = [program, "--cluster", "create", *addresses, "--cluster-replicas", "0"]
    # Fewer than three primaries bring a question of their own before the plan.
    answers = "yes\nno\n" if len(ports) < 3 else "no\n"
    run = subprocess.run(command, input=answers, capture_output=True, text=True, timeout=60, check=False)
    ranges = [(int(index), int(first), int(last)) for index, first, last in PLANNED.findall(run.stdout)]
    assert [index for index, _, _ in ranges] == list(range(len(ports))), (run.stdout + run.stderr)[-500:]
    return tuple((first, last) for _, first, last in ranges)


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max(COUNTS) + 200  # a listener and a caller for each node, and what the process holds
    room = hard if hard != resource.RLIM_INFINITY else wanted
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, room), hard))
    stub = Stub(max(COUNTS))
    stub.start()
    yield stub.ports
    stub.stop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("primaries", COUNTS)
def test_ranges_are_valkey_clis(primaries: int, ports: list[int], valkey_cli: str) -> None:
    assert planned(valkey_cli, ports[:primaries]) == slot_ranges(primaries)
