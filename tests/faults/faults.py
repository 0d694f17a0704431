"""Do to a world what a plan says: one function per kind of fault, named after it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenkit.testing import FaultProxy
    from tests.faults.plan import Fault
    from tests.faults.world import World

STOP_WITHIN = 25.0  # seconds; the drain time is 3
# Hands every channel an acknowledgement of a message that it never sent.
_REFUSES_COMMANDS = (
    "[gen_server2:cast(Channel, {method, {'basic.ack', 99999999, false}, none, noflow})"
    " || Channel <- rabbit_channel:list_local()]."
)


def strike(world: World, fault: Fault) -> None:
    """Let one fault happen, begin to end, when nothing else hurts the same thing."""
    with world.locks[fault.target]:
        kind = fault.kind.replace("-", "_")
        if fault.target.startswith("w"):
            globals()[kind](world, fault)
            return
        with world.line.blow(fault.kind, fault.target), _lasting(globals()[kind], world, fault):
            time.sleep(fault.seconds)


@contextlib.contextmanager
def _lasting(do: Callable[[World, Fault], object], world: World, fault: Fault) -> Iterator[None]:
    """Begin a fault that is a function, or a generator that ends it too."""
    under_way = do(world, fault)
    if under_way is None:
        yield
        return
    next(under_way)
    try:
        yield
    finally:
        next(under_way, None)


# -- workers -------------------------------------------------------------------------------------
def worker_kill(world: World, fault: Fault) -> None:
    """SIGKILL, and a new one."""
    name = fault.target
    with world.line.blow("worker-kill", name, pid=world.workers[name].pid):
        world.ended(name, world.workers[name].kill())
    world.start(name, wait=False)


def worker_replace(world: World, fault: Fault) -> None:
    """SIGTERM, and a new one."""
    name = fault.target
    with world.line.blow("worker-replace", name, pid=world.workers[name].pid):
        world.ended(name, world.workers[name].stop(timeout=STOP_WITHIN))
    world.start(name, wait=False)


def worker_freeze(world: World, fault: Fault) -> None:
    """SIGSTOP for a while."""
    name = fault.target
    with world.line.blow("worker-freeze", name):
        world.workers[name].freeze()
        time.sleep(fault.seconds)
        world.workers[name].thaw()


# -- the network, of any server ------------------------------------------------------------------
def _pause(proxy: FaultProxy) -> Iterator[None]:
    proxy.pause()
    yield
    proxy.resume()


def _black_hole(proxy: FaultProxy) -> Iterator[None]:
    proxy.black_hole()
    yield
    proxy.heal()


def broker_cut(world: World, fault: Fault) -> None:
    """Reset every connection."""
    world.to_broker.cut()


def broker_cut_some(world: World, fault: Fault) -> None:
    """Reset a few connections."""
    world.to_broker.cut(1 + int(fault.dice * 3))


def broker_cut_after(world: World, fault: Fault) -> Iterator[None]:
    """Reset each connection in the middle of what it says, or hears."""
    direction = "up" if fault.dice < 0.5 else "down"
    world.to_broker.cut_after(1 + int(fault.dice * 4000), direction=direction)
    yield
    world.to_broker.heal()


def broker_half_close(world: World, fault: Fault) -> None:
    """Tell workers, or the broker, that nothing more will come."""
    world.to_broker.half_close("client" if fault.dice < 0.5 else "server")


def broker_refuse_connections(world: World, fault: Fault) -> Iterator[None]:
    """Cut, and let nobody back for a while."""
    world.to_broker.refuse()
    world.to_broker.cut()
    yield
    world.to_broker.accept()


def broker_pause(world: World, fault: Fault) -> Iterator[None]:
    """Hold every byte."""
    return _pause(world.to_broker)


def broker_black_hole(world: World, fault: Fault) -> Iterator[None]:
    """Lose every byte."""
    return _black_hole(world.to_broker)


def broker_slow(world: World, fault: Fault) -> Iterator[None]:
    """Delay every byte."""
    world.to_broker.slow(latency=0.05 + fault.dice * 0.5, jitter=0.1)
    yield
    world.to_broker.heal()


def postgres_cut(world: World, fault: Fault) -> None:
    """Reset every connection."""
    world.to_postgres.cut()


def postgres_pause(world: World, fault: Fault) -> Iterator[None]:
    """Hold every byte."""
    return _pause(world.to_postgres)


def postgres_black_hole(world: World, fault: Fault) -> Iterator[None]:
    """Lose every byte."""
    return _black_hole(world.to_postgres)


def limiter_cut(world: World, fault: Fault) -> None:
    """Reset every connection."""
    world.to_limiter.cut()


def limiter_pause(world: World, fault: Fault) -> Iterator[None]:
    """Hold every byte."""
    return _pause(world.to_limiter)


def limiter_black_hole(world: World, fault: Fault) -> Iterator[None]:
    """Lose every byte."""
    return _black_hole(world.to_limiter)


# -- servers -------------------------------------------------------------------------------------
def broker_kill(world: World, fault: Fault) -> Iterator[None]:
    """SIGKILL; it comes back with what it had confirmed."""
    world.broker.kill()
    yield
    world.broker.start()


def postgres_kill(world: World, fault: Fault) -> Iterator[None]:
    """SIGKILL, and recovery."""
    world.postgres.kill()
    yield
    world.postgres.start()


def postgres_restart(world: World, fault: Fault) -> None:
    """Restart in good order: clients are thrown out."""
    world.postgres.restart()


def postgres_terminate(world: World, fault: Fault) -> None:
    """End the backends of the workers."""
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'faults-%'")


def limiter_kill(world: World, fault: Fault) -> Iterator[None]:
    """SIGKILL; it comes back empty."""
    world.limiter.kill()
    yield
    world.limiter.start()


def limiter_flush(world: World, fault: Fault) -> None:
    """Empty it, scripts too."""
    with redis.Redis.from_url(world.limiter.url) as client:
        client.flushall()
        client.script_flush()


def llm_restart(world: World, fault: Fault) -> Iterator[None]:
    """Stop it and start it again, its quota full."""
    world.llm.stop()
    yield
    world.llm = world.mock()


def llm_errors(world: World, fault: Fault) -> Iterator[None]:
    """Answer three calls of ten with 500, and reset one."""
    world.llm.stop()
    world.llm = world.mock(error_rate=0.3, reset_rate=0.1)
    yield
    world.llm.stop()
    world.llm = world.mock()


def llm_slow(world: World, fault: Fault) -> Iterator[None]:
    """Answer after seconds."""
    world.llm.stop()
    world.llm = world.mock(latency="uniform:1:4")
    yield
    world.llm.stop()
    world.llm = world.mock()


# -- a broker that refuses -----------------------------------------------------------------------
def _redis(world: World) -> redis.Redis:
    return redis.Redis.from_url(world.broker.url)


def broker_readonly(world: World, fault: Fault) -> Iterator[None]:
    """Be the replica of nobody: READONLY, and UNBLOCKED for those who wait."""
    with _redis(world) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


def broker_full(world: World, fault: Fault) -> Iterator[None]:
    """Have no memory left: OOM."""
    with _redis(world) as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


def broker_disk(world: World, fault: Fault) -> Iterator[None]:
    """Fail to save: MISCONF."""
    directory = Path(world.broker.directory)
    mode = directory.stat().st_mode & 0o777
    with _redis(world) as client:
        directory.chmod(0o555)
        try:
            _save(client, "err")
            yield
        finally:
            directory.chmod(mode)
            _save(client, "ok")


def _save(client: redis.Redis, status: str) -> None:
    for _ in range(100):
        with contextlib.suppress(redis.ResponseError):  # one is under way
            client.bgsave()
        time.sleep(0.05)
        if client.info("persistence")["rdb_last_bgsave_status"] == status:
            return


def broker_without_replicas(world: World, fault: Fault) -> Iterator[None]:
    """Miss the replicas it needs: NOREPLICAS."""
    with _redis(world) as client:
        client.config_set("min-replicas-to-write", 1)
        yield
        client.config_set("min-replicas-to-write", 0)


def broker_forgets_scripts(world: World, fault: Fault) -> None:
    """Forget every script: NOSCRIPT."""
    with _redis(world) as client:
        client.script_flush()


def broker_channel_error(world: World, fault: Fault) -> None:
    """Close every channel with 406 PRECONDITION_FAILED, as a consumer time-out does."""
    world.broker.control("eval", _REFUSES_COMMANDS)


def broker_closes_connections(world: World, fault: Fault) -> None:
    """Close every connection in good order, with 320 CONNECTION_FORCED."""
    world.broker.control("close_all_connections", "maintenance")


def broker_memory_alarm(world: World, fault: Fault) -> Iterator[None]:
    """Block whoever publishes."""
    world.broker.control("set_vm_memory_high_watermark", "absolute", "1MB")
    yield
    world.broker.control("set_vm_memory_high_watermark", "0.4")


def heal(world: World) -> None:
    """End whatever still lasts, before the run is judged; the faults themselves are over by now."""
    for proxy in (world.to_broker, world.to_postgres, world.to_limiter):
        proxy.heal()
