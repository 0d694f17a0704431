"""Show a run: what is being started, a bar, a table. On a terminal with rich, else in plain lines."""

from __future__ import annotations

import sys
import time

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError:
    Console = None

EVERY = 1.0  # seconds between two plain lines


class Show:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._rich = Console() if Console is not None and sys.stdout.isatty() else None
        self._bar = None
        self._last = 0.0

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:5.1f} s  {text}"
        print(line, flush=True) if self._rich is None else self._rich.print(
            line, highlight=False, markup=False
        )

    def progress(self, found: dict) -> None:
        """Move the bar, or print a line a second."""
        done = found["total"] - found["left"]
        eta = f", {found['eta_seconds']:.0f} s to go" if found["left"] and found["eta_seconds"] else ""
        text = f"{found['per_second']:.0f}/s, {found['retries']} retries{eta}"
        if self._rich is not None:
            if self._bar is None:
                columns = (
                    BarColumn(40),
                    MofNCompleteColumn(),
                    TextColumn("{task.description}"),
                    TimeElapsedColumn(),
                )
                self._bar = Progress(*columns, console=self._rich)
                self._bar.start()
                self._bar.add_task("", total=found["total"])
            self._bar.update(self._bar.task_ids[0], completed=done, description=text)
        elif time.monotonic() - self._last >= EVERY or not found["left"]:
            self._last = time.monotonic()
            self.say(f"{done}/{found['total']} answers, {text}")

    def end_progress(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def table(self, title: str, rows: list[tuple[str, str, str]]) -> None:
        """Print (what, number, remark) lines."""
        if self._rich is not None:
            table = Table(title=title, title_justify="left", show_header=False)
            for what, number, remark in rows:
                table.add_row(what, f"[bold]{number}[/bold]", f"[dim]{remark}[/dim]")
            self._rich.print(table)
            return
        print(f"\n{title}\n{'-' * len(title)}")
        first, second = (max(len(row[at]) for row in rows) for at in (0, 1))
        for what, number, remark in rows:
            print(f"{what:<{first}}  {number:>{second}}  {remark}".rstrip())
        sys.stdout.flush()
