"""`dev` sets up what a word needs, once, and says in one line what is missing.

Each test works on a copy of the script in a tree of its own, with a double of uv that writes down
its calls; the real installation is what ran before these tests could.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands for uv: notes the call, does what UV_DOES says, and leaves a pytest that prints its arguments.
FAKE_UV = """#!{python}
import os, pathlib, signal, sys, time
tree = pathlib.Path(os.environ["TREE"])
if sys.argv[1:3] == ["python", "find"]:
    sys.exit("error: no interpreter found")
with open(tree / "uv-calls", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
does = os.environ.get("UV_DOES", "")
if does == "die with the parent":
    os.kill(os.getppid(), signal.SIGKILL)
if does == "find no network":
    sys.exit("error: Request failed: error sending request for url")
if does == "fail":
    sys.exit("error: no version of gevent fits")
if does == "be slow":
    while not (tree / "go-on").exists():
        time.sleep(0.01)
for folder in tree.glob(".venv*/lib/python*/site-packages"):
    (folder / "pytest.py").write_text("import sys; print('pytest got', sys.argv[1:])")
"""

# Runs `dev` in a Python that claims to be another.
PRETEND = """
import runpy, sys
{pretence}
sys.argv = ["dev", *sys.argv[1:]]
runpy.run_path("dev", run_name="__main__")
"""


class Done(NamedTuple):
    """What a run of `dev` left: its exit code, its output, its lines to the user."""

    code: int
    out: str
    said: list[str]


class Tree:
    """A copy of the project's front, and the double of uv."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tools = path / "tools"
        self.tools.mkdir(parents=True)
        (path / "startup").mkdir()
        for name in ("dev", "pyproject.toml", "constraints.txt", "startup/_greenkit_children.pth"):
            shutil.copy(ROOT / name, path / name)
        uv = self.tools / "uv"
        uv.write_text(FAKE_UV.format(python=sys.executable))
        uv.chmod(0o755)

    @property
    def stamp(self) -> Path:
        return self.path / ".venv" / "dev-stamp"

    @property
    def uv_calls(self) -> list[str]:
        log = self.path / "uv-calls"
        return log.read_text().splitlines() if log.exists() else []

    def start(self, *arguments: str, uv: str = "", pretence: str = "", **env: str) -> subprocess.Popen[str]:
        command = ["-c", PRETEND.format(pretence=pretence)] if pretence else ["dev"]
        return subprocess.Popen(
            [sys.executable, *command, *arguments],
            cwd=self.path,
            env={"PATH": f"{self.tools}:/usr/bin:/bin", "TREE": str(self.path), "UV_DOES": uv, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def dev(self, *arguments: str, uv: str = "", pretence: str = "", **env: str) -> Done:
        process = self.start(*arguments, uv=uv, pretence=pretence, **env)
        out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err.splitlines())


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "project")


def test_it_parses_on_every_python_3():
    """An old Python reads the script far enough to be told what is needed."""
    text = (ROOT / "dev").read_text(encoding="ascii")
    ast.parse(text, feature_version=(3, 6))
    assert "annotations" not in text


def test_an_old_python_is_told_what_to_use(tree):
    """Python 3.9 gets one line with the version needed and the command to type; nothing is made."""
    done = tree.dev("test", "-k", "x", pretence="sys.version_info = (3, 9, 2, 'final', 0)")
    assert done.code == 1
    assert len(done.said) == 1
    assert "needs Python 3.10 or newer" in done.said[0]
    assert done.said[0].endswith("dev test -k x")
    assert not (tree.path / ".venv").exists()


def test_a_missing_venv_module_names_the_package(tree):
    """Debian's Python without python3-venv gets one line with the apt package; no .venv is left."""
    (tree.tools / "uv").unlink()
    done = tree.dev("test", pretence="sys.modules['ensurepip'] = None")
    assert done.code == 1
    assert f"apt install python3.{sys.version_info.minor}-venv" in done.said[-1]
    assert not (tree.path / ".venv").exists()


def test_an_unknown_word_lists_the_words(tree):
    """A word that does not exist is answered with those that do."""
    done = tree.dev("tset")
    assert done.code == 1
    assert done.said == ["./dev: no word 'tset'; there are: demo test bounds chaos lint docs bench doctor"]


def test_the_second_time_nothing_is_installed(tree):
    """A stamp makes the second start a matter of two hashes, and arguments pass through."""
    first = tree.dev("test", "-k", "limiter")
    second = tree.dev("test", "-k", "limiter")
    assert first.out == second.out == "pytest got ['-k', 'limiter']\n"
    assert len(tree.uv_calls) == 1
    assert "--group test" in tree.uv_calls[0]
    assert tree.uv_calls[0].endswith("-e .[demo,psycopg3]")
    assert [line.partition(" in ")[0] for line in second.said] == ["./dev: test ready"]


def test_words_add_up_in_one_venv(tree):
    """Setting up for a second word keeps the first one's stamp."""
    tree.dev("test", "-q")
    tree.dev("lint", "-q")
    tree.dev("test", "-q")
    assert [call.split()[-3] for call in tree.uv_calls] == ["test", "lint"]
    assert tree.stamp.read_text().split()[1:] == ["lint", "test"]


def test_changed_requirements_are_installed(tree):
    """Another constraints.txt means another installation, and forgets every word's stamp."""
    tree.dev("test", "-q")
    tree.dev("lint", "-q")
    with (tree.path / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    tree.dev("test", "-q")
    assert len(tree.uv_calls) == 3
    assert tree.stamp.read_text().split()[1:] == ["test"]


def test_without_network_one_line_says_so(tree):
    """An unreachable index ends with code 1, uv's own words, and one line that says what to do."""
    done = tree.dev("test", uv="find no network")
    assert done.code == 1
    assert "error sending request" in done.said[-2]
    assert "the package index could not be reached; check the network" in done.said[-1]
    assert not tree.stamp.exists()


def test_another_failure_is_not_called_the_network(tree):
    """A version that does not exist is shown as uv's error, not as a missing network."""
    done = tree.dev("test", uv="fail")
    assert done.code == 1
    assert "no version of gevent fits" in done.said[-2]
    assert "network" not in done.said[-1]


def test_an_interrupted_installation_leaves_no_stamp(tree):
    """Killed in the middle, the next start installs again; an older stamp does not hide it."""
    tree.dev("test", "-q")
    assert tree.dev("lint", uv="die with the parent").code == -9
    assert not tree.stamp.exists()
    tree.dev("test", "-q")
    assert len(tree.uv_calls) == 3


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda python: python.unlink(), "it is broken"),
        (lambda python: (python.unlink(), python.symlink_to("/nowhere/python")), "it is broken"),
        (
            lambda python: (
                python.unlink(),
                python.write_text(f"#!/bin/sh\necho cpython-38 {python.parents[1]}\n"),
                python.chmod(0o755),
            ),
            "it is of cpython-38",
        ),
    ],
    ids=["no python", "dangling", "another version"],
)
def test_a_venv_that_cannot_work_is_made_anew(tree, harm, said):
    """A venv without its Python, or of another version, is replaced."""
    tree.dev("test", "-q")
    harm(tree.path / ".venv" / "bin" / "python")
    tree.stamp.unlink()
    done = tree.dev("test", "-q")
    assert done.out == "pytest got ['-q']\n"
    assert said in done.said[0]


def test_a_moved_project_gets_a_venv_of_its_own(tree, tmp_path):
    """A copied or moved .venv points elsewhere in its scripts, so it is replaced."""
    tree.dev("test", "-q")
    tree.path.rename(tmp_path / "moved")
    moved = Tree.__new__(Tree)
    moved.path, moved.tools = tmp_path / "moved", tmp_path / "moved" / "tools"
    done = moved.dev("test", "-q")
    assert "it was made elsewhere" in done.said[0]
    assert done.code == 0


def test_two_at_once_install_once(tree):
    """The second waits for the first and then finds everything done."""
    first = tree.start("test", "-q", uv="be slow")
    wait_until(lambda: tree.uv_calls)
    second = tree.start("test", "-q", uv="be slow")
    waiting = second.stderr.readline()
    (tree.path / "go-on").touch()
    assert "another ./dev is setting up" in waiting
    assert [first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]] == [
        "pytest got ['-q']\n"
    ] * 2
    assert len(tree.uv_calls) == 1


def wait_until(true):
    """Wait for another process to have done something; the test's own timeout is the deadline."""
    while not true():
        time.sleep(0.01)


def test_without_arguments_the_unit_suite_runs_patched_first(tree):
    """`./dev test` runs the unit tests of what waits patched, then the whole suite, whose line is last."""
    done = tree.dev("test")
    patched, whole = done.out.splitlines()
    assert patched.startswith("pytest got ['-p', 'greenkit.testing.early', 'tests/unit/celery', ")
    assert all((ROOT / name).exists() for name in re.findall(r"tests/unit/[\w./]+", patched))
    assert re.fullmatch(r"pytest got \['-n', '\d', '--dist', 'loadfile'\]", whole)


def test_the_whole_suite_finds_bytecode_where_none_is_written(tree):
    """Where PYTHONDONTWRITEBYTECODE is set, all is compiled before the suite, but not for a part of it."""
    (tree.path / "greenkit").mkdir()
    (tree.path / "greenkit" / "module.py").write_text("number = 7")
    tree.dev("test", "tests/unit", PYTHONDONTWRITEBYTECODE="1")
    assert not list(tree.path.glob("greenkit/__pycache__/*"))
    tree.dev("test", PYTHONDONTWRITEBYTECODE="1")
    [compiled] = tree.path.glob("greenkit/__pycache__/*")
    assert compiled.name == f"module.{sys.implementation.cache_tag}.pyc"
    assert list(tree.path.glob(".venv/lib/python*/site-packages/__pycache__/pytest.*.pyc"))


def test_a_failure_in_the_patched_run_is_the_exit_code(tree):
    """The whole suite passing does not hide that the patched run failed."""
    tree.dev("test", "-q")
    for folder in (tree.path / ".venv" / "lib").glob("python*/site-packages"):
        (folder / "pytest.py").write_text("import sys; sys.exit(3 if '-p' in sys.argv else 0)")
    done = tree.dev("test")
    assert done.code == 3
    assert "FAILED in the patched process" in done.said[-1]


# Stands for another Python: says its version when asked, and otherwise writes down that it was started.
OTHER = """#!/bin/sh
case "$1" in
  -c) echo {version} ;;
  *) echo "{version} got $@" ;;
esac
"""


def other_python(place: Path, version: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(OTHER.format(version=version))
    place.chmod(0o755)


@pytest.mark.parametrize(
    "place", ["tools/python3.99", "pyenv/versions/3.99.4/bin/python"], ids=["PATH", "pyenv"]
)
@pytest.mark.parametrize("option", [("--python", "3.99"), ("--python=3.99",)])
def test_another_python_is_found_and_becomes_dev(tree, place, option):
    """`--python X` starts the same command in that Python, which then makes a venv of its own."""
    other_python(tree.path / place, "3.99.4")
    done = tree.dev("test", *option, "-q", PYENV_ROOT=str(tree.path / "pyenv"))
    assert done.out == f"3.99.4 got {(tree.path / 'dev').resolve()} test {' '.join(option)} -q\n"
    assert done.code == 0


def test_a_python_of_another_version_is_not_taken(tree):
    """A shim that does not start and a Python that lies are named, and the newest real one is taken."""
    (tree.tools / "python3.99").write_text("#!/bin/sh\nexit 127\n")
    (tree.tools / "python3.99").chmod(0o755)
    for version in ("3.99.2", "3.99.10"):
        other_python(tree.path / "pyenv" / "versions" / version / "bin" / "python", version)
    done = tree.dev("test", "--python", "3.99", PYENV_ROOT=str(tree.path / "pyenv"))
    assert done.out.startswith("3.99.10 got ")
    done = tree.dev("test", "--python", "3.99", PYENV_ROOT=str(tree.path / "nothing"))
    assert done.code == 1
    assert f"no Python 3.99: {tree.tools}/python3.99 does not start" in done.said[0]
    assert "pyenv install 3.99" in done.said[0]


def test_this_python_by_version_has_a_venv_of_its_own(tree):
    """`--python` with the running version installs beside `.venv`, which it leaves alone."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = tree.dev("test", "--python", version, "-q")
    assert done.out == "pytest got ['-q']\n"
    assert (tree.path / f".venv-{version}" / "dev-stamp").exists()
    assert not (tree.path / ".venv").exists()


@pytest.mark.parametrize("wrong", ["three", "3", "../3.12", ""])
def test_what_is_no_version_is_refused(tree, wrong):
    """A word that is no version is answered with one that is, before anything is made."""
    done = tree.dev("test", "--python", wrong)
    assert done.code == 1
    assert done.said == [f"./dev: --python {wrong} is no version; write it as 3.12 or 3.12.1"]


def test_it_is_executable():
    """`./dev` can be typed as the README says."""
    assert os.access(ROOT / "dev", os.X_OK)
