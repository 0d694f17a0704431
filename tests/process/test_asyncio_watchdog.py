"""Loops that still stop the hub are named: by their line, what they do, and the remedy."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

HEAD = """
import json, logging, sys
import greenkit.auto
import asyncio, gevent, hashlib
from gevent.monkey import get_original
from greenkit import aio, watchdog
from asgiref.sync import async_to_sync
native_sleep = get_original("time", "sleep")
logging.basicConfig(stream=sys.stdout, format="%(message)s")
told = []
dog = watchdog.start(0.05)
dog.observe(told.append)
gevent.sleep(0)

async def computes():
    await asyncio.sleep(0)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 600_000)
    await asyncio.sleep(0)

async def waits():
    await asyncio.sleep(0)
    native_sleep(0.3)
    await asyncio.sleep(0)

def stock_loop():
    "A loop whose selector is older than the patch: it waits in the kernel."
    loop = asyncio.SelectorEventLoop(PlainSelector())
    loop.run_until_complete(asyncio.sleep(0.3))
    loop.close()

import selectors
select = get_original("select", "select")
class PlainSelector(selectors._BaseSelectorImpl):
    def select(self, timeout=None):
        select([key.fd for key in self.get_map().values()], [], [], timeout)
        return []

def report():
    gevent.sleep(0.05)
    print(json.dumps([[block.where, block.call, block.function] for block in told]))
"""


@pytest.mark.parametrize("way", ["asyncio.run(%s())", "aio.run(%s())", "async_to_sync(%s)()"])
@pytest.mark.parametrize("work", ["computes", "waits"])
def test_a_coroutine_that_holds_the_hub_is_named_by_its_line(way: str, work: str) -> None:
    """Whichever greenlet its loop runs in, the line is the coroutine's."""
    run = run_clean(HEAD + f"gevent.spawn(lambda: {way % work}).join()\nreport()\n")
    assert run.returncode == 0, str(run)
    named = [block for block in run.json if block[2] == work]
    assert named, str(run)
    where, call, _ = named[0]
    assert work in where
    assert call in {"hashlib.pbkdf2_hmac", "_hashlib.pbkdf2_hmac", "time.sleep"}, call
    assert "greenkit.offload" in run.stdout or "before the patch" in run.stdout, str(run)


def test_a_loop_older_than_the_patch_is_named() -> None:
    """A selector that waits in the kernel stops all greenlets; the report shows the loop's wait."""
    run = run_clean(HEAD + "gevent.spawn(stock_loop).join()\nreport()\n")
    assert run.returncode == 0, str(run)
    assert any(block[2] == "stock_loop" or block[1] == "select.select" for block in run.json), str(run)
