from __future__ import annotations

import pytest

from greenkit.doctor import fix_text

LINE = "import greenkit.auto  # noqa: F401\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import os\n", LINE + "import os\n"),
        ("", LINE),
        ("import os", LINE + "import os"),
        ("#!/bin/python\n# coding: utf8\nx = 1\n", f"#!/bin/python\n# coding: utf8\n{LINE}x = 1\n"),
        ("#!/bin/python\n# coding: utf8", f"#!/bin/python\n# coding: utf8\n{LINE}"),
        ("#!/bin/python", f"#!/bin/python\n{LINE}"),
        ("# coding: utf8", f"# coding: utf8\n{LINE}"),
        ('"""Docs."""\n\nimport os\n', f'"""Docs."""\n{LINE}\nimport os\n'),
        ('"""Docs."""; import os\n', f'"""Docs."""\n{LINE}import os\n'),
        ('"""Docs."""', f'"""Docs."""\n{LINE}'),
        ("from __future__ import (\n a,\n)  # why\nx = 1\n".replace("a,", "annotations,"),
         f"from __future__ import (\n annotations,\n)  # why\n{LINE}x = 1\n"),
        ("import os\r\n", LINE.replace("\n", "\r\n") + "import os\r\n"),
        ("import os\nimport greenkit.auto\nx = 1\n", LINE + "import os\nx = 1\n"),
        ("import greenkit.auto\nimport os\n", "import greenkit.auto\nimport os\n"),
        ("import jobs\nfrom gevent import monkey\nmonkey.patch_all()\n", LINE + "import jobs\n"),
        ("from gevent import monkey; monkey.patch_all()\nx = 1\n", LINE + "x = 1\n"),
        ("from gevent.monkey import patch_all as p\np()  # early\n", LINE + "# early\n"),
        ("import gevent.monkey\ngevent.monkey.patch_all()\ngevent.sleep(1)\n",
         LINE + "import gevent.monkey\ngevent.sleep(1)\n"),
        ("from gevent import monkey\nmonkey.patch_all()\nmonkey.saved\n",
         LINE + "from gevent import monkey\nmonkey.saved\n"),
        ("x = 1; monkey = 2\nmonkey.patch_all()\n", LINE + "x = 1; monkey = 2\nmonkey.patch_all()\n"),
    ],
)  # fmt: skip
def test_the_import_comes_first_and_the_rest_stays(before, after):
    """Each way a file may begin, and each way it may patch already."""
    fixed = fix_text(before)
    assert fixed.text == after
    assert fixed.left == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "from gevent import monkey\nmonkey.patch_all(thread=False)\n",
            "line 2: monkey.patch_all(thread=False)",
        ),
        ("import gevent.monkey as m\nif 1:\n    m.patch_all()\n", "line 3: m.patch_all() is no statement"),
        ("from gevent.monkey import patch_socket\npatch_socket()\n", "line 2: patch_socket() patches other"),
        ("def f():\n    from gevent import monkey\n    monkey.patch_all()\n", "line 3"),
    ],
)
def test_what_cannot_be_mended_is_said(text, says):
    """It stays in the file, and the reader is told where and why."""
    fixed = fix_text(text)
    assert fixed.text == LINE + text
    assert len(fixed.left) == 1
    assert says in fixed.left[0]


def test_what_does_not_parse_is_not_touched():
    """There is no position to trust in it."""
    with pytest.raises(SyntaxError):
        fix_text("import (\n")
