"""The distance to the store: a TCP proxy whose answers do not begin before a given time.

A server on the same machine answers in 1 ms; an object store takes 10-40 ms to the first byte. The
proxy is that difference and nothing else: bytes pass unchanged (so signatures stay valid), each
connection for itself, and once an answer has begun it flows as fast as the machine allows. It runs
in a process of its own so that it neither shares the GIL with the training nor outlives it.

    with distant("127.0.0.1:8333", seconds=0.02) as address:
        ...  # talk to address instead
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 256 * 1024
"""Bytes a read; larger than the socket buffers, so that it is never the limit."""


@contextmanager
def distant(server: str, *, seconds: float) -> Iterator[str]:
    """Run a proxy to ``server`` (``host:port``) in a child process; yield its address, likewise."""
    command = [sys.executable, "-I", __file__, server, str(seconds)]  # isolated: it needs nothing of ours
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            address = proxy.stdout.readline().strip() if proxy.stdout else ""
            if not address:
                raise RuntimeError(f"the delaying proxy to {server} did not start")
            yield address
        finally:
            proxy.kill()


class _Connection:
    """One client's connection: two pumps, and the time of the request that is unanswered."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: float | None = None

    async def requests(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass requests on at once; the answer is due ``seconds`` after their last byte."""
        while data := await client.read(CHUNK):
            self._due = asyncio.get_running_loop().time() + self._seconds
            server.write(data)
            await server.drain()

    async def answers(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Pass answers back, the first byte of each no sooner than it is due."""
        while data := await server.read(CHUNK):
            if self._due is not None:
                await asyncio.sleep(self._due - asyncio.get_running_loop().time())
                self._due = None
            client.write(data)
            await client.drain()


async def _serve(host: str, port: int, seconds: float) -> None:
    """Accept connections until standard input closes, which it does when the parent ends."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(host, port, limit=CHUNK)
            connection = _Connection(seconds)
            pumps = {
                asyncio.create_task(connection.requests(reader, server_writer)),
                asyncio.create_task(connection.answers(server_reader, writer)),
            }
            _, running = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in running:
                pump.cancel()
            server_writer.close()
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, limit=CHUNK, backlog=1024)
    print(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _host, _, _port = sys.argv[1].rpartition(":")
    asyncio.run(_serve(_host, int(_port), float(sys.argv[2])))
