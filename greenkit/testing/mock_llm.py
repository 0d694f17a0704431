"""Run the mock LLM server as a program: ``python -m greenkit.testing.mock_llm --port 0 …``.

Its own process and unpatched on purpose: a server inside the process under test would share its
hub, and hide the very stalls the tests look for. `greenkit.testing.MockLLM` starts this from Python.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import os
import signal
import ssl
import sys
from functools import partial
from typing import TYPE_CHECKING

from greenkit.testing._mock_draw import parse_draw
from greenkit.testing._mock_rules import parse_rate
from greenkit.testing._mock_server import STYLES, Config, Connection, MockServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

_BACKLOG = 4096
_PARENT_LOOK = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the death of `--parent-pid`; return the exit code.

    Returns:
        0 after a stop, 2 when the arguments are wrong or the address is taken.
    """
    options = _parser().parse_args(argv)
    config = _config(options)
    loop = asyncio.new_event_loop()
    try:
        server = loop.run_until_complete(_listen(loop, config, options))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "the port is taken; stop what listens there, or give --port 0" if taken else str(error)
        _report(
            options.ready_fd,
            f"mock LLM server: cannot listen on {options.host}:{options.port}: {why}",
            failed=True,
        )
        loop.close()
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loop.stop)
    if options.parent_pid:
        _follow(loop, options.parent_pid)
    port = server.sockets[0].getsockname()[1]
    scheme = "https" if options.tls_cert else "http"
    _report(options.ready_fd, f"{scheme}://{options.host}:{port}", failed=False)
    gc.freeze()  # what is loaded now stays; no collection walks it again
    loop.run_forever()
    server.close()
    return 0


async def _listen(
    loop: asyncio.AbstractEventLoop, config: Config, options: argparse.Namespace
) -> asyncio.Server:
    factory = partial(Connection, MockServer(config, loop))
    return await loop.create_server(
        factory, options.host, options.port, backlog=_BACKLOG, ssl=_tls(options.tls_cert, options.tls_key)
    )


def _tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise OSError(f"certificate {cert!r} with key {key or cert!r}: {error.strerror or error}") from None
    return context


def _report(fd: int | None, line: str, *, failed: bool) -> None:
    if fd is None:
        print(
            line if failed else f"mock LLM server on {line}",
            file=sys.stderr if failed else sys.stdout,
            flush=True,
        )
        return
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def _follow(loop: asyncio.AbstractEventLoop, parent: int) -> None:
    """Stop the loop when the parent process is gone."""
    # Not PR_SET_PDEATHSIG: that fires when the *thread* that forked us ends, not the process.
    try:
        fd = os.pidfd_open(parent)
    except (AttributeError, OSError):  # not Linux, an old kernel, or the parent is gone already
        _look(loop, parent)
        return
    loop.add_reader(fd, loop.stop)
    if os.getppid() != parent:
        loop.call_soon(loop.stop)


def _look(loop: asyncio.AbstractEventLoop, parent: int) -> None:
    if os.getppid() != parent:
        loop.stop()
        return
    loop.call_later(_PARENT_LOOK, _look, loop, parent)


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, is {text}")
    return value


def _spelled(parse: Callable[[str], object]) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _config(options: argparse.Namespace) -> Config:
    return Config(
        style=options.style,
        latency=options.latency,
        reply_tokens=options.reply_tokens,
        requests=options.requests,
        tokens=options.tokens,
        charge=options.charge,
        error_rate=options.error_rate,
        reset_rate=options.reset_rate,
        seed=options.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m greenkit.testing.mock_llm", description="A mock LLM API server."
    )
    add = parser.add_argument
    rate, draw = _spelled(parse_rate), _spelled(parse_draw)
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 picks a free one (default)")
    add("--style", choices=sorted(STYLES), default="openai")
    add("--requests", type=rate, metavar="RATE", help='such as "500/min", "200/s" or "200/s burst 20"')
    add("--tokens", type=rate, metavar="RATE", help='such as "90_000/min burst 9_000"')
    add(
        "--charge",
        choices=("usage", "reserve"),
        default="usage",
        help="tokens used, or prompt plus max_tokens",
    )
    add(
        "--latency",
        type=draw,
        metavar="DRAW",
        default="0",
        help='"0.5", "uniform:0.2:0.8", "lognormal:0.5:0.3"',
    )
    add(
        "--reply-tokens",
        type=draw,
        metavar="DRAW",
        default="16",
        help="length of an answer, drawn the same way",
    )
    add("--error-rate", type=_share, default=0.0, help="share of admitted calls answered with 500 (529)")
    add("--reset-rate", type=_share, default=0.0, help="share of admitted calls whose connection is reset")
    add("--seed", type=int, default=0)
    add("--tls-cert", metavar="FILE", help="speak HTTPS with this certificate")
    add("--tls-key", metavar="FILE", help="its key, unless the same file holds it")
    add("--parent-pid", type=int, help=argparse.SUPPRESS)
    add("--ready-fd", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
