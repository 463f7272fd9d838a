"""Page hits, counted in a Valkey cluster of this application's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request

import bootstrap


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    # A name, so that the next process finds the cluster again; and it is kept, since that process may be this one's
    # successor: uvicorn --reload starts one for each change of the code.
    async with (
        bootstrap.cluster(name="hits", nodes=6, replicas=1, keep=True) as cluster,
        cluster.client(decode_responses=True) as valkey,
    ):
        yield {"cluster": cluster, "valkey": valkey}


app = FastAPI(lifespan=lifespan)


@app.post("/hits/{page}")
async def hit(page: str, request: Request) -> int:
    count: int = await request.state.valkey.incr(f"hits:{page}")
    return count


@app.get("/health")
async def health(request: Request) -> dict[str, Any]:
    status = await request.state.cluster.status()
    return {"healthy": status.healthy, "nodes": {node.name: node.role for node in status.nodes}}
