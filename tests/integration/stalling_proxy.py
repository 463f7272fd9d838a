"""A proxy that stalls, as a program of its own: PORT UPSTREAM BYTES, the two ports on 127.0.0.1.

Of each answer it hands on so many bytes and then nothing more, and does not end the connection either.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


async def main(port: int, upstream: int, limit: int) -> None:
    """Serve until it is killed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection("127.0.0.1", upstream)
        with suppress(ConnectionError):
            await asyncio.gather(pump(reader, questions), pump(answers, writer, limit))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print("ready", flush=True)  # noqa: T201 - for who started it
    await server.serve_forever()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: int | None = None) -> None:
    """Hand on what comes, up to the limit."""
    passed = 0
    while piece := await source.read(4096):
        passed += len(piece)
        if limit is not None and passed > limit:
            print("stalled", flush=True)  # noqa: T201
            await asyncio.Event().wait()
        sink.write(piece)
        await sink.drain()
    sink.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
