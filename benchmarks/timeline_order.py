"""Draw what happens when in two programs that differ in one line: who patches first.

Runs both in clean interpreters, in CPU time so that neighbours on the machine do not bend the picture. It
notes when each import began and ended, when each step of the patch ran and which names were taken before
it, and writes the picture of `docs/explanation/why-order-matters.md`.

Run: python benchmarks/timeline_order.py [docs/explanation/why-order-matters.svg]
"""

from __future__ import annotations

import html
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MODULES = {
    "settings": "import requests\n",
    "jobs": "import threading\nfrom time import sleep\n\nLOCK = threading.Lock()\n",
    "tasks": "import jobs\n",
}
LATE = "import settings\nimport jobs\nfrom gevent import monkey\nmonkey.patch_all()\nimport tasks\n"
FIRST = "import greenkit.auto\nimport settings\nimport jobs\nimport tasks\n"
PATCHED = ("logging", "queue", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading")

NOTE_TAKER = """
import builtins, sys, time
from importlib.machinery import PathFinder
begin = time.process_time()
now = lambda: round((time.process_time() - begin) * 1000, 1)
notes = {"imports": [], "loaded": {}, "steps": [], "seen": {}}
real = builtins.__import__
def noting(name, globals=None, locals=None, fromlist=(), level=0):
    if sys._getframe(1).f_code.co_filename != sys.argv[1]:
        return real(name, globals, locals, fromlist, level)
    start = now()
    try:
        return real(name, globals, locals, fromlist, level)
    finally:
        notes["imports"].append([sys._getframe(1).f_lineno, start, now()])
class Finder:
    def find_spec(self, name, path=None, target=None):
        notes["seen"].setdefault(name, now())
        if name == "gevent.events":
            spec = PathFinder.find_spec(name, path)
            real_exec = spec.loader.exec_module
            def exec_module(module):
                real_exec(module)
                module.subscribers.append(heard)
            spec.loader.exec_module = exec_module
            return spec
sys.meta_path.insert(0, Finder())
def heard(event):
    kind = type(event).__name__
    if kind in ("GeventWillPatchModuleEvent", "GeventDidPatchModuleEvent"):
        notes["steps"].append([kind.startswith("GeventWill"), event.module_name, now()])
    elif kind == "GeventDidPatchAllEvent":
        notes["patched"] = now()
builtins.__import__ = noting
path = sys.argv[1]
source = open(path).read()
main = sys.modules["__main__"].__dict__
main["__file__"] = path
exec(compile(source, path, "exec"), main)
builtins.__import__ = real
notes["end"] = now()
from greenkit import boot
loud = [found for found in boot.evidence() if found.severity.value != "info"]
notes["held"] = [[found.holder, found.attribute, found.original, found.effect] for found in loud]
import json
print(json.dumps(notes))
"""


def measured(source):
    """Return what a clean interpreter noted about `source`, the fastest of nine runs."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in MODULES.items():
            Path(folder, f"{name}.py").write_text(text)
        app = Path(folder, "app.py")
        app.write_text(source)
        for _ in range(9):
            done = subprocess.run(
                [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r})\n{NOTE_TAKER}", str(app)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return min(runs, key=lambda notes: notes["end"])


WIDTH, LEFT, RIGHT = 900, 20, 20
INK, GREY, BLUE, GREEN, RED = "#222", "#777", "#b9d3ee", "#2a8a43", "#c62828"


class Picture:
    def __init__(self, end):
        self.scale = (WIDTH - LEFT - RIGHT) / end
        self.parts = []

    def x(self, at):
        return LEFT + at * self.scale

    def text(self, x, y, words, color=INK, size=12, anchor="start", weight="normal"):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y}" fill="{color}" font-size="{size}" text-anchor="{anchor}"'
            f' font-weight="{weight}">{html.escape(words)}</text>'
        )

    def bar(self, start, end, y, color, height=18):
        width = max(1.0, (end - start) * self.scale)
        self.parts.append(
            f'<rect x="{self.x(start):.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{color}"/>'
        )

    def line(self, at, top, bottom, color, dash=""):
        self.parts.append(
            f'<line x1="{self.x(at):.1f}" x2="{self.x(at):.1f}" y1="{top}" y2="{bottom}" stroke="{color}"'
            f' stroke-dasharray="{dash}"/>'
        )

    def labels(self, items, top, color):
        """Write (time, words) below each other where they would overlap; return where they end."""
        ends = []
        for at, words in sorted(items):
            # A label that would leave the picture on the right is written to the left of its place.
            width = 6.4 * len(words)
            x = min(self.x(at), WIDTH - RIGHT - width)
            row = next((row for row, end in enumerate(ends) if end < x), len(ends))
            ends[row:] = [x + width + 10, *ends[row + 1 :]]
            self.line(at, top - 4, top + 5 + 14 * row, GREY)
            self.text(x + 3, top + 10 + 14 * row, words, color, 11)
        return top + 14 * max(1, len(ends)) + 8


def draw(picture, title, source, notes, top):
    """Draw one program from `top` downwards; return where it ends."""
    lines = source.splitlines()
    picture.text(LEFT, top + 14, title, weight="bold", size=14)
    y = top + 26
    picture.text(LEFT, y + 12, "imports of app.py", GREY, 11)
    y += 18
    for _, start, end in notes["imports"]:
        picture.bar(start, end, y, BLUE)
    shown = [(start, f"{number}: {lines[number - 1]}") for number, start, _ in notes["imports"]]
    y = picture.labels(shown, y + 24, INK)
    begin = min(at for _, _, at in notes["steps"])
    steps = ", ".join(dict.fromkeys(module.strip("_") for _, module, _ in notes["steps"]))
    picture.text(LEFT, y + 12, f"patch_all(), {notes['patched'] - begin:.0f} ms: {steps}", GREY, 11)
    y += 18
    begun = []
    for number, (will, _, at) in enumerate(notes["steps"]):
        if will:
            begun.append(at)
        elif begun:
            picture.bar(begun.pop(), at, y, GREEN if number % 4 == 1 else "#7cc48d")
    y += 26
    late = [(at, name) for name, at in notes["seen"].items() if name in PATCHED]
    before = [(at, name) for at, name in late if at < begin]
    picture.text(
        LEFT, y + 10, f"modules it patches, loaded before it: {len(before)} of {len(PATCHED)}", GREY, 11
    )
    y = picture.labels(before, y + 20, INK) if before else y + 18
    words = "names and objects taken before the patch, which it cannot reach:"
    if not notes["held"]:
        picture.text(LEFT, y + 10, f"{words} none", GREEN, 12, weight="bold")
        return y + 30
    picture.text(LEFT, y + 10, words, RED, 12, weight="bold")
    held = [
        (notes["seen"].get(holder, 0), f"{holder}.{attribute} is {original}: {effect}")
        for holder, attribute, original, effect in notes["held"]
    ]
    return picture.labels(held, y + 22, RED) + 10


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/explanation/why-order-matters.svg")
    runs = [("patched on line 4", LATE, measured(LATE)), ("patched on line 1", FIRST, measured(FIRST))]
    picture = Picture(max(notes["end"] for _, _, notes in runs))
    y = 8
    for title, source, notes in runs:
        y = draw(picture, f"app.py, {title} ({notes['end']:.0f} ms of CPU)", source, notes, y) + 16
    for at in range(0, int(max(notes["end"] for _, _, notes in runs)) + 1, 50):
        picture.line(at, y - 4, y + 2, GREY)
        picture.text(picture.x(at), y + 14, f"{at} ms", GREY, 10, "middle" if at else "start")
    body = "\n".join(picture.parts)
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 22}" font-family="sans-serif">\n'
        f'<rect width="{WIDTH}" height="{y + 22}" fill="#fff"/>\n{body}\n</svg>\n'
    )
    print(f"{out}: {', '.join(title + ': ' + str(len(notes['held'])) + ' held' for title, _, notes in runs)}")


if __name__ == "__main__":
    main()
