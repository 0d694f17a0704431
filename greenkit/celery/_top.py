"""`celery -A proj greenkit top`: what every worker's pool does, again and again.

Asks the running workers through the broker (`inspect greenkit`); needs no access to their machines.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options

from greenkit.celery._doctor import ask

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["render", "top_command"]

_CLEAR = "\x1b[H\x1b[J"


@click.command(name="top", cls=CeleryCommand)
@click.option("--every", type=click.FloatRange(min=0.1), default=2.0, show_default=True,
              help="Seconds between two looks.")  # fmt: skip
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds to wait for workers to answer.",
)
@click.option("--once", is_flag=True, help="Print one look and leave; status 2 when nobody answered.")
@click.option(
    "--tasks",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Longest running tasks to show, per worker.",
)
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]  # Celery ships no types
def top_command(ctx: Any, *, every: float, timeout: float, once: bool, tasks: int) -> None:
    """Show pools, limits, hub stalls and the longest tasks of all running workers."""
    try:
        while True:
            answers, trouble = ask(ctx.obj.app, "greenkit", timeout=timeout, most=tasks)
            text = trouble or render(answers)
            click.echo(text if once else _CLEAR + text)
            if once:
                ctx.exit(2 if trouble else 0)
            time.sleep(every)
    except KeyboardInterrupt:
        ctx.exit(0)


def render(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the answers of `inspect greenkit`, by worker, as lines for a terminal."""
    lines: list[str] = []
    for worker, facts in sorted(answers.items()):
        lines.append(worker)
        lines += [f"  pool {name:14} {_pool(pool)}" for name, pool in facts.get("pool", {}).items()]
        lines += [f"  limit {name:13} {_limit(limit)}" for name, limit in facts.get("limiter", {}).items()]
        lines += [f"  hub  {name:14} {_hub(hub)}" for name, hub in facts.get("watchdog", {}).items()]
        lines += [f"  offload {name:11} {_offload(pool)}" for name, pool in facts.get("offload", {}).items()]
        lines += [f"  aio  {name:14} {_loop(loop)}" for name, loop in facts.get("aio", {}).items()]
        lines += [_task(task) for task in facts["tasks"]]
    return "\n".join(lines)


def _task(task: Mapping[str, Any]) -> str:
    waits = f"{task['at']}  {task.get('on', '')}".rstrip()
    return f"  {task['seconds']:8.1f} s  {task['name']}  {task['id']}  {waits}"


def _pool(pool: Mapping[str, Any]) -> str:
    shares = {name: pool[name] for name in ("waiting", "limited", "ended") if name in pool}
    return f"{pool.get('in_use', 0)}/{pool.get('size', 0)} running, " + ", ".join(
        f"{count} {name}" for name, count in shares.items()
    )


def _limit(limit: Mapping[str, Any]) -> str:
    pause = f", paused for {limit['paused_for']:.1f} s" if limit.get("paused_for") else ""
    waits = f"{limit.get('waiting', 0)} waiting, {limit.get('granted', 0)} granted"
    return f"{waits}, wait p95 {limit.get('wait_p95') or 0.0:.2f} s{pause}"


def _offload(pool: Mapping[str, Any]) -> str:
    abandoned = f", {pool['abandoned']} abandoned" if pool.get("abandoned") else ""
    return (
        f"{pool.get('running', 0)}/{pool.get('size', 0)} native threads, {pool.get('waiting', 0)} waiting,"
        f" {pool.get('finished', 0)} ended{abandoned}"
    )


def _loop(loop: Mapping[str, Any]) -> str:
    abandoned = f", {loop['abandoned']} abandoned" if loop.get("abandoned") else ""
    return f"{loop.get('running', 0)} coroutines waited for, {loop.get('tasks', 0)} asyncio tasks{abandoned}"


def _hub(hub: Mapping[str, Any]) -> str:
    worst = hub.get("worst_lag") or 0.0
    return (
        f"{hub.get('blocks', 0)} times still for {hub.get('threshold', 0.0):g} s or more, worst {worst:.2f} s"
    )
