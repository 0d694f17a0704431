"""Two progress bars for `progress=`, which takes anything with tqdm's `update(n)`."""

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tqdm import tqdm


class RichBar:
    def __init__(self, total):
        columns = TextColumn("tickets"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.display = Progress(*columns)
        self.task = self.display.add_task("tickets", total=total)

    def __enter__(self):
        self.display.start()
        return self

    def __exit__(self, *error):
        self.display.stop()

    def update(self, n=1):
        self.display.advance(self.task, n)


def tqdm_bar(total):
    return tqdm(total=total, unit=" tickets", file=sys.stdout)


BARS = {"tqdm": tqdm_bar, "rich": RichBar, "none": lambda total: None}
