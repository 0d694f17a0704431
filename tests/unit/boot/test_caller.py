from __future__ import annotations

from greenkit.boot._record import outside_caller
from greenkit.boot._source import imports_of


def test_imports_are_read_without_running_them(tmp_path):
    """Each import statement gives its line and the modules it may load, relative ones resolved."""
    file = tmp_path / "mod.py"
    file.write_text("import a.b, c\nfrom d import e\nfrom . import f\nfrom ..g import h\nraise SystemExit\n")
    found = imports_of(str(file), package="top.pkg")
    assert found == [
        (1, "a.b"),
        (1, "c"),
        (2, "d"),
        (2, "d.e"),
        (3, "top.pkg"),
        (3, "top.pkg.f"),
        (4, "top.g"),
        (4, "top.g.h"),
    ]


def test_a_file_that_cannot_be_read_has_no_imports(tmp_path):
    """A missing file or a syntax error explains nothing and breaks nothing."""
    (tmp_path / "bad.py").write_text("import (\n")
    assert imports_of(str(tmp_path / "bad.py")) == imports_of("<frozen x>") == []


def test_the_caller_is_the_line_outside():
    """Whoever is neither gevent nor ours is named with file and line."""
    assert outside_caller().startswith(__file__ + ":")
