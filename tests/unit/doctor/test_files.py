from __future__ import annotations

import threading

from greenkit.doctor import _files


def test_two_threads_may_write_at_once(tmp_path):
    """Whoever reads sees one of the texts, whole; no draft is taken away by the other."""
    path, texts, errors = str(tmp_path / "report"), ("a" * 50_000, "b" * 50_000), []

    def write(text):
        try:
            for _ in range(200):
                _files.write(path, text)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for one in threads:
        one.start()
    _files.write(path, "a" * 50_000)
    seen = {_files.read(path) for _ in range(200)}
    for one in threads:
        one.join()
    assert errors == []
    assert seen <= set(texts)
    assert [one.name for one in tmp_path.iterdir()] == ["report"]


def test_what_is_not_there_is_empty(tmp_path):
    """A file nobody wrote reads as no text."""
    assert _files.read(str(tmp_path / "nothing")) == ""
