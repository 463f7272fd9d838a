"""Relays for TCP connections, as a program of its own: DELAY in seconds, for each direction; commands on stdin.

``open UPSTREAM`` prints a port that leads to that port of 127.0.0.1, ``swallow PORT`` lets everything that comes
through it vanish, ``pass PORT`` no longer, and ends what lost something. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from typing import Self


class Relay:
    """Started by a test; ends with the block."""

    def __init__(self, delay: float = 0.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(delay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def open(self, upstream: int) -> int:
        """A port that leads to another one."""
        return self._tell(f"open {upstream}")

    def swallow(self, port: int) -> None:
        """From now on nothing comes through."""
        self._tell(f"swallow {port}")

    def let_pass(self, port: int) -> None:
        """From now on everything comes through, on new connections."""
        self._tell(f"pass {port}")

    def _tell(self, line: str) -> int:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{line}\n")
        stdin.flush()
        return int(stdout.readline())


class _Port:
    """One port that is relayed, and what runs through it."""

    def __init__(self, upstream: int, delay: float) -> None:
        self.upstream, self.delay = upstream, delay
        self.swallowing = False
        self.lossy: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            both = (writer, upstream_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, upstream_writer, both))
                    group.create_task(self._pump(upstream_reader, writer, both))
            except* OSError:
                pass
            finally:
                self.lossy.difference_update(both)
                upstream_writer.close()
        writer.close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        clock = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await queue.get()
                await asyncio.sleep(due - clock.time())
                if not piece:
                    # One end has closed: so do both.
                    raise ConnectionResetError
                sink.write(piece)
                await sink.drain()

        async with asyncio.TaskGroup() as group:
            delivery = group.create_task(deliver())
            while not delivery.done():
                piece = await source.read(65536)
                if self.swallowing and piece:
                    self.lossy.update(both)
                else:
                    queue.put_nowait((clock.time() + self.delay, piece))
                if not piece:
                    break

    def let_pass(self) -> None:
        self.swallowing = False
        for writer in self.lossy:
            # A stream with a hole in it is none any more.
            writer.transport.abort()


async def main(delay: float) -> None:
    """Serve until stdin ends."""
    ports: dict[int, _Port] = {}
    servers = []
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode():
        verb, _, number = line.partition(" ")
        port = int(number)
        match verb:
            case "open":
                relayed = _Port(port, delay)
                servers.append(await asyncio.start_server(relayed.serve, "127.0.0.1", 0))
                port = servers[-1].sockets[0].getsockname()[1]
                ports[port] = relayed
            case "swallow":
                ports[port].swallowing = True
            case "pass":
                ports[port].let_pass()
            case _:
                raise ValueError(line)
        print(port, flush=True)  # noqa: T201 - for who asked


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
