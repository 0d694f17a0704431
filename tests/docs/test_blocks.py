"""Code that a page shows runs as it is typed; what does not run says why."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, pages

ALL = [block for page in pages() for block in blocks(page)]
# Pages whose blocks have a test of their own, in the file named.
ELSEWHERE = {"README.md": "test_readme.py", "docs/tutorial/2-your-project.md": "test_tutorial.py"}
UNPATCHED = {"docs/explanation/why-order-matters.md"}
SHOWN_ONLY = {"text", ""}  # what a program printed


def _python(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python" and not block.not_run]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", [page for page in pages() if _python(page) and page not in ELSEWHERE])
def test_the_code_of_a_page_runs(page, tmp_path, greenkit_postgres, greenkit_valkey):
    """Block after block, in a patched process and an empty directory, with the names the page speaks of."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GREENKIT", "DJANGO", "OPENAI"))}
    environment = kept | {
        "GREENKIT_POSTGRES": greenkit_postgres.dsn,
        "GREENKIT_REDIS": greenkit_valkey.url,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
    }
    line = "" if page in UNPATCHED else "import greenkit.auto; "
    program = f"{line}from tests.docs.stage import main; main({page!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_with_a_test_of_its_own_is_named_there(page):
    """The test file that runs the page is there and names it."""
    assert f'"{page}"' in (Path(__file__).parent / ELSEWHERE[page]).read_text(encoding="utf-8")


def test_every_block_runs_or_says_why_not():
    """A block is code that runs, output, a command, a file that is read, or it carries its reason."""
    known = {"python", "console", "bash", "ini", "toml", "yaml"} | SHOWN_ONLY
    strange = [
        f"{block.page}:{block.line} {block.language}"
        for block in ALL
        if block.language not in known and not block.language.startswith("{")
    ]
    assert strange == []
    assert [
        f"{block.page}:{block.line}" for block in ALL if "not run" in block.mark and not block.not_run
    ] == []


def _names(tree: ast.AST) -> list[tuple[str, str]]:
    """Return (module, name) for each thing of greenkit's that a block imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("greenkit"):
            found += [(node.module or "", alias.name) for alias in node.names]
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "greenkit"
        ):
            found.append(("greenkit", node.attr))
    return found


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.not_run and b.language == "python"], ids=lambda b: f"{b.page}:{b.line}"
)
def test_code_that_is_not_run_can_be_read(block):
    """It parses, and the names of greenkit in it exist."""
    for module, name in _names(ast.parse(block.text)):
        loaded = importlib.import_module(module)
        assert hasattr(loaded, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.language in {"ini", "toml", "yaml"}], ids=lambda b: f"{b.page}:{b.line}"
)
def test_settings_can_be_read(block):
    """A configuration is read by the parser of its format."""
    if block.language == "ini":
        parser = configparser.ConfigParser(strict=False)
        parser.read_string(block.text)
        assert parser.sections()
    elif block.language == "toml":
        tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
        assert tomllib.loads(block.text)
    else:
        yaml = pytest.importorskip("yaml", reason="comes with moto, a test dependency")
        assert yaml.safe_load(block.text)


COMMANDS = [
    (block, command)
    for block in ALL
    if block.language in {"console", "bash"} and block.page not in ELSEWHERE and not block.not_run
    for command in (
        [word for word, _ in block.commands()] if block.language == "console" else block.text.splitlines()
    )
]
WORDS = re.compile(r"\bgreenkit (alive|run|celery|doctor|explain|top|plan)\b")


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=lambda value: getattr(value, "page", value))
def test_commands_exist(block, command):
    """Each option a command of greenkit is shown with is one it has."""
    word = WORDS.search(command)
    if word is None or "celery -A" in command.partition("greenkit")[0]:
        return
    own = command[word.end() :].partition(" -- ")[0].partition("#")[0]
    options = set(re.findall(r"--[a-z]+", own)) if word[1] != "celery" else set()
    assert [option for option in options if option not in _help(word[1])] == []


@cache
def _help(word: str) -> str:
    command = [sys.executable, "-m", "greenkit", word, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
