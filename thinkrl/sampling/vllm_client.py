"""Talking to vLLM's servers: many requests at once, each wait with a name and a deadline."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from thinkrl.config.component import UserError

_LOOK_SECONDS = 0.25
"""Time between looks at the server processes while requests are under way."""
_GRACE_SECONDS = 5.0
"""Time a server that broke a connection has to end, so that the message can say how."""
_REMEDY = "the same command goes on from the last checkpoint"


class EngineLost(UserError):
    """A server that ended, broke off or did not answer in time: says what was awaited from whom."""


@dataclass(frozen=True, eq=False)
class Server:
    """Where a server is. ended: says how its process ended, or None while it runs, and for one of somebody else's."""

    name: str
    url: str = "http://localhost"
    socket: Path | None = None
    ended: Callable[[], str | None] = field(default=lambda: None)


@dataclass(frozen=True, eq=False)
class Request:
    """A request to one of the servers: its number, the route, and the JSON body (none asks with GET)."""

    server: int
    path: str
    body: dict[str, Any] | None = None


def exchange(
    servers: Sequence[Server], requests: Sequence[Request], awaited: str, seconds: float, connections: int = 8
) -> list[Any]:
    """The JSON answers to all requests, in order.

    awaited: what is waited for, for the message. connections: requests under way at once, per server.
    Raises EngineLost when `seconds` have passed, a server has ended, or one refuses or breaks off a request.
    """
    return asyncio.run(_exchange(servers, requests, awaited, seconds, connections))


def wait_until_ready(servers: Sequence[Server], seconds: float) -> None:
    """Returns when every server answers. Raises EngineLost when one ends, or not all have after `seconds`."""
    asyncio.run(_wait_until_ready(servers, seconds))


async def _exchange(
    servers: Sequence[Server], requests: Sequence[Request], awaited: str, seconds: float, connections: int
) -> list[Any]:
    if not requests:
        return []
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(server, connections)) for server in servers]
        # The client's own queue grows with the square of what waits in it.
        turns = [asyncio.Semaphore(connections) for _ in servers]
        tasks = [asyncio.create_task(_ask(servers, clients, turns, request, awaited)) for request in requests]
        watch = asyncio.create_task(_watch(servers, awaited))
        work = asyncio.create_task(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
        try:
            await asyncio.wait({work, watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in (watch, *tasks):
                if task.done():
                    task.result()  # raises where one failed
            if not work.done():
                late = sorted({servers[r.server].name for r, t in zip(requests, tasks, strict=True) if not t.done()})
                raise EngineLost(f"waited {seconds:g} s for {awaited} from {', '.join(late)}; {_REMEDY}")
            return [task.result() for task in tasks]
        finally:
            for pending in (*tasks, watch, work):
                pending.cancel()
            await asyncio.gather(*tasks, watch, work, return_exceptions=True)


async def _ask(
    servers: Sequence[Server],
    clients: Sequence[httpx.AsyncClient],
    turns: Sequence[asyncio.Semaphore],
    request: Request,
    awaited: str,
) -> Any:
    server, client = servers[request.server], clients[request.server]
    async with turns[request.server]:
        try:
            if request.body is None:
                response = await client.get(request.path)
            else:
                response = await client.post(request.path, json=request.body)
            if response.is_success:
                return response.json() if response.content else None
            reason = f"answered {request.path} with {response.status_code}: {response.text[:500]}"
        except httpx.HTTPError as error:
            reason = f"broke off {request.path} ({type(error).__name__}: {error})"
        raise EngineLost(f"{server.name} {await _end_of(server) or reason} while {awaited} were awaited; {_REMEDY}")


async def _end_of(server: Server) -> str | None:
    """How the server ended, if it does within a moment."""
    for _ in range(int(_GRACE_SECONDS / _LOOK_SECONDS)):
        found = server.ended()
        if found is not None:
            return f"is gone: {found}\n "
        await asyncio.sleep(_LOOK_SECONDS)
    return None


async def _watch(servers: Sequence[Server], awaited: str) -> None:
    while True:
        for server in servers:
            found = server.ended()
            if found is not None:
                raise EngineLost(f"{server.name} is gone: {found}\n  while {awaited} were awaited; {_REMEDY}")
        await asyncio.sleep(_LOOK_SECONDS)


async def _wait_until_ready(servers: Sequence[Server], seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    for server in servers:
        async with _client(server, 1) as client:
            while True:
                ended = server.ended()
                if ended is not None:
                    raise EngineLost(f"{server.name} did not start: {ended}")
                try:
                    if (await client.get("/health", timeout=5)).is_success:
                        break
                except httpx.HTTPError:
                    pass
                if asyncio.get_running_loop().time() > deadline:
                    raise EngineLost(f"waited {seconds:g} s for the start of {server.name}")
                await asyncio.sleep(_LOOK_SECONDS)


def _client(server: Server, connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    socket = None if server.socket is None else str(server.socket)
    # No proxies, and no time limit but the caller's.
    transport = httpx.AsyncHTTPTransport(uds=socket, limits=limits)
    return httpx.AsyncClient(base_url=server.url, transport=transport, timeout=None)
