"""Relay TCP connections and hurt them on command: the program behind `FaultProxy`.

Not imported: `_fault_proxy` runs this file as `python -I -S _fault_relay.py PARENT CONFIG`. Commands are
JSON lines on stdin, answers JSON lines on stdout; it ends when the control pipe closes or the parent dies.
A command is answered when it is in force. One asyncio loop in a process of its own: neither a blocked hub
nor a busy interpreter of the test delays what it relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import sys
from typing import Any

UP, DOWN = "up", "down"  # from client to server, from server to client
_PIECE = 65536


class Rules:
    """What happens to the bytes of one direction, on every connection."""

    def __init__(self) -> None:
        self.latency = self.jitter = 0.0
        self.rate = 0.0  # bytes a second; 0 is no limit
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.drop = False
        self.cut_after: int | None = None  # bytes from now on, for connections that open later


class Pipe:
    """Carry one direction of one connection."""

    def __init__(
        self, link: Link, rules: Rules, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.link, self.rules, self.reader, self.writer = link, rules, reader, writer
        self.left = rules.cut_after
        self.lost = 0  # bytes that a black hole swallowed
        self.ended = False  # half-closed on command: what still comes has nowhere to go
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

    async def fill(self) -> None:
        """Take what comes in, with the instant at which it may go on."""
        clock = asyncio.get_running_loop()
        while True:
            data = await self.reader.read(_PIECE)
            due = clock.time() + self.rules.latency + random.uniform(0.0, self.rules.jitter)
            await self._queue.put((due, data))
            if not data:
                return

    async def drain(self) -> None:
        """Hand it on: in order, when it is due, unless it is held or lost."""
        clock = asyncio.get_running_loop()
        while True:
            due, data = await self._queue.get()
            if (wait := due - clock.time()) > 0:
                await asyncio.sleep(wait)
            await self.rules.flowing.wait()
            if self.ended:
                if not data:
                    return
                continue
            if self.rules.drop:
                # The end is lost too: the other side of a black hole never learns of it.
                self.lost += len(data) or 1
                continue
            if not data:
                if not self.writer.transport.is_closing():
                    self.writer.write_eof()
                return
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        while data:
            await self.rules.flowing.wait()
            size = min(len(data), max(1, int(self.rules.rate * 0.02)) if self.rules.rate else len(data))
            if self.left is not None:
                size = min(size, self.left)
                self.left -= size
            self.writer.write(data[:size])
            await self.writer.drain()
            self.link.relay.carried[self.rules is self.link.relay.rules[DOWN]] += size
            if self.left == 0:
                self.link.reset()
                return
            if self.rules.rate:
                await asyncio.sleep(size / self.rules.rate)
            data = data[size:]


class Link:
    """One connection of a client, and ours to the server."""

    def __init__(
        self, relay: Relay, client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:  # fmt: skip
        self.relay = relay
        self.jobs: list[asyncio.Future[None]] = []
        self.writers = {"client": client[1], "server": server[1]}
        self.pipes = {
            UP: Pipe(self, relay.rules[UP], client[0], server[1]),
            DOWN: Pipe(self, relay.rules[DOWN], server[0], client[1]),
        }

    async def run(self) -> None:
        """Relay until both ends have said all, or one of them is reset."""
        self.jobs = [asyncio.ensure_future(job) for p in self.pipes.values() for job in (p.fill(), p.drain())]
        try:
            await asyncio.gather(*self.jobs)
        except OSError:
            self.reset()  # what one end does to us is what the other end sees
        except asyncio.CancelledError:
            pass  # by `reset`
        finally:
            for job in self.jobs:
                job.cancel()
            for writer in self.writers.values():
                writer.close()

    def reset(self) -> None:
        """End both connections with a reset instead of an end of file."""
        for writer in self.writers.values():
            abort(writer)
        # One that holds its bytes, or has lost the end of its stream, would wait for ever.
        for job in self.jobs:
            job.cancel()

    def half_close(self, side: str) -> None:
        """Tell one end that nothing more will come; what it sends still arrives."""
        self.pipes[DOWN if side == "client" else UP].ended = True
        if not self.writers[side].transport.is_closing():
            with contextlib.suppress(OSError):  # reset by its end, which asyncio has not read yet
                self.writers[side].write_eof()


def abort(writer: asyncio.StreamWriter) -> None:
    """Close with a reset: no time to linger means RST."""
    held = writer.get_extra_info("socket")
    if held is not None and held.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Relay:
    """Listen, relay, and do what the parent says."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.target, self.host = config["target"], config["host"]
        self.rules = {UP: Rules(), DOWN: Rules()}
        self.links: set[Link] = set()
        self.opened = 0
        self.carried = [0, 0]
        self.server: asyncio.AbstractServer | None = None
        self.shut = bound(self.host, config["port"])
        self.port: int = self.shut.getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection of a client."""
        link = None
        try:
            await self.rules[UP].flowing.wait()
            if isinstance(self.target, str):
                server = await asyncio.open_unix_connection(self.target)
            else:
                server = await asyncio.open_connection(*self.target)
            link = Link(self, (reader, writer), server)
            self.links.add(link)
            self.opened += 1
            await link.run()
        except OSError:
            abort(writer)  # nobody listens behind us
        finally:
            self.links.discard(link)

    def chosen(self, direction: str) -> list[Rules]:
        """Return the rules of one direction, or of both."""
        return [rules for name, rules in self.rules.items() if direction in (name, "both")]

    # -- commands --------------------------------------------------------------------------------
    async def do_accept(self) -> dict[str, Any]:
        """Take connections."""
        if self.server is None:
            self.server = await asyncio.start_server(self.serve, sock=self.shut, backlog=1024)
        return {"port": self.port}

    async def do_refuse(self) -> dict[str, Any]:
        """Refuse connections; the port stays ours, bound and without a listener."""
        if self.server is not None:
            self.server.close()
            self.server = None
            await asyncio.sleep(0)  # the loop lets go of the listening socket
            self.shut = bound(self.host, self.port)
        return {}

    async def do_shape(self, direction: str, **values: float) -> dict[str, Any]:
        """Set latency, jitter or rate."""
        for rules in self.chosen(direction):
            for name, value in values.items():
                setattr(rules, name, value)
        return {}

    async def do_flow(self, direction: str, on: bool) -> dict[str, Any]:  # noqa: FBT001
        """Hold what comes in, or let it go on."""
        for rules in self.chosen(direction):
            (rules.flowing.set if on else rules.flowing.clear)()
        return {}

    async def do_drop(self, direction: str, on: bool) -> dict[str, Any]:  # noqa: FBT001
        """Lose what comes in; afterwards reset the connections that lost something."""
        for rules in self.chosen(direction):
            rules.drop = on
        if not on:
            for link in list(self.links):
                # The rest of a stream with a hole in it would be read as something else.
                if any(pipe.lost and not pipe.rules.drop for pipe in link.pipes.values()):
                    link.reset()
        return {}

    async def do_cut_after(self, direction: str, count: int | None) -> dict[str, Any]:
        """Reset each connection once `count` more bytes have passed on it."""
        for rules in self.chosen(direction):
            rules.cut_after = count
        for link in self.links:
            for pipe in link.pipes.values():
                if direction in ("both", UP if pipe.rules is self.rules[UP] else DOWN):
                    pipe.left = count
        return {}

    async def do_cut(self, most: int | None) -> dict[str, Any]:
        """Reset connections, all or some."""
        links = list(self.links)
        if most is not None:
            links = random.sample(links, min(most, len(links)))
        for link in links:
            link.reset()
        return {"count": len(links)}

    async def do_half_close(self, side: str) -> dict[str, Any]:
        """Half-close every connection."""
        for link in self.links:
            link.half_close(side)
        return {"count": len(self.links)}

    async def do_status(self) -> dict[str, Any]:
        """Count."""
        return {"open": len(self.links), "opened": self.opened,
                "bytes_up": self.carried[0], "bytes_down": self.carried[1]}  # fmt: skip


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that has the port and does not listen: connecting to it is refused."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except BaseException:
        held.close()
        raise
    return held


def tell(answer: dict[str, Any]) -> None:
    """Write one answer; a reader that is gone is found out by the control pipe."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(answer).encode() + b"\n")


async def obey(relay: Relay, gone: asyncio.Event) -> None:
    """Do what the control pipe says until it closes."""
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        asked = json.loads(line)
        do = asked.pop("do")
        if do == "end":
            break
        number = asked.pop("id")
        try:
            answer = await getattr(relay, f"do_{do}")(**asked)
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        tell({"id": number, **answer})
    gone.set()


async def main(parent: int, config: dict[str, Any]) -> None:
    """Serve until the parent is gone."""
    gone = asyncio.Event()
    # A forked child of the parent may keep the pipe open; the parent's death still counts.
    with contextlib.suppress(AttributeError, OSError):
        asyncio.get_running_loop().add_reader(os.pidfd_open(parent), gone.set)
    try:
        relay = Relay(config)
        await relay.do_accept()
    except OSError as error:
        tell({"id": 0, "error": f"{type(error).__name__}: {error}"})
        return
    obeying = asyncio.ensure_future(obey(relay, gone))
    tell({"id": 0, "port": relay.port})
    await gone.wait()
    obeying.cancel()
    os._exit(0)  # connections end as the kernel ends those of a dead process; nothing here needs more


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), json.loads(sys.argv[2])))
