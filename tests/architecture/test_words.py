"""What must be said is said, and what must not be is not."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from tests.architecture import rules, words
from tests.architecture.floors import ROOT

FORBIDDEN_FILES = re.compile(r"(^|_)(utils?|helpers?|common|misc)(\.py)?$")
# Somebody's home, or one registry's address, is true on one machine only.
ONE_MACHINE_ONLY = re.compile(r"/(?:home|Users)/\w|/(?:root)/|https?://[^\s\"'>]+\.(?:whl|tar\.gz)\b")
TEXTS = ("*.md", "*.toml", "*.txt", "*.yaml", "*.py", "dev", ".ci/run")
SHELVES = ("greenkit", "tests", "examples", "benchmarks", "docs")


def test_every_public_name_has_a_docstring():
    """Modules, public classes, methods and functions say what they are for."""
    assert rules.missing_docstrings(ROOT) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "'''M.'''\ndef f(): ...",
        "'''M.'''\nclass A: ...",
        "'''M.'''\nclass A:\n '''A.'''\n def f(self): ...",
    ],
)
def test_a_missing_docstring_is_seen(plant, text):
    """A silent module, function, class or method is caught."""
    assert len(rules.missing_docstrings(plant("greenkit/pool/_p.py", text))) == 1


def test_every_test_states_its_promise():
    """A test has a docstring: the fact it proves."""
    assert rules.silent_tests(ROOT) == []


def test_a_silent_test_is_seen(plant):
    """A test without a docstring is caught, in a class too; its inner functions are not tests."""
    text = "class TestA:\n def test_x(self): ...\ndef test_y():\n '''Y.'''\n def f(): ..."
    assert rules.silent_tests(plant("tests/unit/test_a.py", text)) == [
        "tests/unit/test_a.py:2 TestA.test_x has no docstring"
    ]


def test_unit_tests_do_not_sleep():
    """Time in unit tests is a FakeClock's."""
    assert rules.sleeping_tests(ROOT) == []


@pytest.mark.parametrize("call", ["time.sleep(1)", "gevent.sleep(0.01)", "sleep(x)"])
def test_a_sleeping_unit_test_is_seen(plant, call):
    """A wait for the real clock is caught; `sleep(0)` is only a switch."""
    assert rules.sleeping_tests(plant("tests/unit/test_a.py", call)) != []
    assert rules.sleeping_tests(plant("tests/unit/test_a.py", "gevent.sleep(0); gevent.sleep()")) == []


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_examples_use_public_names_only(folder):
    """What an example needs, a user may use."""
    assert rules.private_imports(ROOT, folder) == []


def test_a_private_name_in_an_example_is_seen(plant):
    """A private file and a private name are caught."""
    plant("examples/a/b.py", "from greenkit.wait._line import WaitLine\nfrom greenkit import _x, Limiter")
    assert len(rules.private_imports(plant("examples/c.py", ""), "examples")) == 2


def test_names_are_the_fields():
    """No room names a file, a class, a function or a variable in words the field does not use."""
    found = rules.private_words(ROOT)
    assert {room: names for room, names in found.items() if room not in words.NOT_YET} == {}


def test_the_list_of_unconverted_rooms_only_shrinks():
    """A room whose names are the field's is not in the table NOT_YET of words.py any more."""
    assert sorted(words.NOT_YET.keys() - rules.private_words(ROOT).keys()) == []


@pytest.mark.parametrize(
    "text",
    [
        "for one in (): ...",
        "def f(one): ...",
        "def my_turn(): ...",
        "class HandNews: ...",
        "import os as _doors",
        "x.shelf = 1",
        "try: ...\nexcept OSError as again: ...",
        "x = [one for one in ()]",
    ],
)
def test_a_private_word_is_seen(plant, text):
    """Each way to bind a name is looked at, with and without underscores and capitals."""
    assert list(rules.private_words(plant("greenkit/pool/_p.py", text))) == ["pool"]


def test_a_file_in_a_private_word_is_seen(plant):
    """A file's name counts; a word inside another word, or a name that is only used, does not."""
    assert list(rules.private_words(plant("greenkit/wait/_bell.py", ""))) == ["wait"]
    root = plant("greenkit/pool/_p.py", "returned = handle = new = x.again()")
    assert "pool" not in rules.private_words(root)


def words_of_pages(root):
    forbidden = re.compile(rf"\b({'|'.join(words.SAY_INSTEAD_IN_PAGES)})\b", re.IGNORECASE)
    past = {root / "docs" / place for place in ("_build", "changes", "decisions")}
    pages = [page for page in (root / "docs").rglob("*.md") if not past & set(page.parents)]
    return [
        f"{page.relative_to(root)}:{number} {found[0]}: say {words.SAY_INSTEAD_IN_PAGES[found[0].lower()]}"
        for page in [*pages, *root.glob("*.md")]
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if (found := forbidden.search(line))
    ]


def test_pages_name_the_agent():
    """A page says which caller, process or program it speaks of."""
    assert words_of_pages(ROOT) == []


def test_a_page_without_an_agent_is_seen(plant):
    """The word is caught in any case; a longer word is not, nor a past change."""
    root = plant("docs/howto/a.md", "Whoever waits\nshelved")
    plant("docs/changes/0.1.0.md", "somebody")
    assert words_of_pages(root) == ["docs/howto/a.md:1 Whoever: say the caller, what"]


def forbidden_names(root):
    files = chain.from_iterable((root / shelf).rglob("*") for shelf in SHELVES)
    return [str(file.relative_to(root)) for file in files if FORBIDDEN_FILES.search(file.name)]


def machine_words(root):
    texts = [file for pattern in TEXTS for file in root.glob(pattern)]
    texts += [file for shelf in SHELVES for pattern in TEXTS for file in (root / shelf).rglob(pattern)]
    found = []
    for file in texts:
        if "_build" in file.parts:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if ONE_MACHINE_ONLY.search(line):
                found.append(f"{file.relative_to(root)}:{number} {line.strip()}")
    return found


def test_no_file_is_named_after_nothing():
    """A file called utils or helpers has no subject."""
    assert forbidden_names(ROOT) == []


@pytest.mark.parametrize("name", ["utils.py", "_helpers.py", "pool_utils.py", "common"])
def test_a_name_without_a_subject_is_seen(plant, name):
    """The usual names without a subject are caught, as files and as folders."""
    assert forbidden_names(plant(f"greenkit/{name}", "")) != []


def test_nothing_is_true_on_one_machine_only():
    """No path of somebody's home and no address of one registry's file is written down."""
    assert machine_words(ROOT) == []


@pytest.mark.parametrize("words", ["see /ro" + "ot/x", "/home" + "/ann/x", "https://x.org/a-1.0.tar" + ".gz"])
def test_words_of_one_machine_are_seen(plant, words):
    """A home directory and a registry's file are caught, in docs and in code."""
    assert machine_words(plant("docs/a.md", words)) != []
    assert machine_words(plant("docs/a.md", "/tmp and https://example.org/")) == []
