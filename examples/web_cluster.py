"""A web service on several machines with one key: four workers, two addresses, one Redis.

    STABILITY_API_KEY=... STABILITY_SHARED_QUOTA=redis://127.0.0.1:6379/0 \
        python -m examples.web_cluster 8000

On real machines each address is one of them: `uvicorn examples.fastapi_app:app --workers 2` with
the same two variables, behind any balancer. Here all of it runs on this machine, and the balancer
is 40 lines of Python.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import suppress
from itertools import count

HOST = "127.0.0.1"
ADDRESSES = 2
WORKERS_EACH = 2
CHUNK = 64 * 1024


class Balancer:
    """Leads each connection to the next address that takes it."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._turns = count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what a browser and a worker say, until both have finished."""
        try:
            there, back = await self._connect()
        except ConnectionError:
            writer.close()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pass_on(reader, back))
            tasks.create_task(self._pass_on(there, writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        first = next(self._turns)
        for turn in range(first, first + len(self._ports)):
            with suppress(OSError):
                return await asyncio.open_connection(HOST, self._ports[turn % len(self._ports)])
        raise ConnectionError("no worker takes connections")

    @staticmethod
    async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        # When one side goes away, the other one learns it: a request without a browser is cut.
        writer.close()


def bound_socket() -> socket.socket:
    """Return a socket with a port that nobody else can take before a worker listens on it."""
    bound = socket.socket()
    # Its connections inherit it. Uvicorn takes a descriptor for a Unix socket and would not set it,
    # so that each answer of several pieces took 40 ms longer.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.bind((HOST, 0))
    return bound


async def start_address(bound: socket.socket) -> asyncio.subprocess.Process:
    """Start the workers of one address."""
    descriptor = bound.fileno()
    uvicorn = ["-m", "uvicorn", "examples.fastapi_app:app", "--log-level", "warning"]
    where = ["--fd", str(descriptor), "--workers", str(WORKERS_EACH)]
    # A worker on a busy machine is not a dead one.
    patience = ["--timeout-worker-healthcheck", "60"]
    return await asyncio.create_subprocess_exec(
        sys.executable, *uvicorn, *where, *patience, pass_fds=[descriptor]
    )


async def ready(address: asyncio.subprocess.Process, port: int) -> None:
    """Wait until the workers of an address take connections."""
    while address.returncode is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    sys.exit("the workers have ended; what they say is above")


async def main(port: int) -> None:
    ports, addresses = [], []
    for _ in range(ADDRESSES):
        with bound_socket() as bound:
            ports.append(bound.getsockname()[1])
            addresses.append(await start_address(bound))
    stopped = asyncio.Event()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_, stopped.set)
    try:
        for address, each in zip(addresses, ports, strict=True):
            await ready(address, each)
        balancer = await asyncio.start_server(Balancer(ports).serve, HOST, port)
        print(f"http://{HOST}:{balancer.sockets[0].getsockname()[1]}", flush=True)
        await stopped.wait()
        balancer.close()
    finally:
        for address in addresses:
            with suppress(ProcessLookupError):
                address.terminate()
        await asyncio.gather(*(address.wait() for address in addresses))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000))
