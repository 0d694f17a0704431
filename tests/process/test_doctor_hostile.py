"""Objects that bite whoever looks at them: the doctor names none of their methods."""

from __future__ import annotations

import json

import pytest

from greenkit.testing import run_clean

# Each writes a line to the file `bitten` when any code of its own is run.
BITE = """
import os
def bite(*args, **kwargs):
    with open({file!r}, "a") as file:
        file.write(__name__ + "\\n")
    raise RuntimeError("bitten")
"""

HOSTILE = {
    "attributes": BITE + "import sys, types\nclass M(types.ModuleType):\n    __getattr__ = bite\n"
    "    __getattribute__ = bite\nsys.modules['odd_module'] = M('odd_module')\n",
    "module_getattr": BITE + "__getattr__ = bite\n",
    "no_module": BITE + "import sys\nclass O:\n    __getattr__ = bite\n    __class__ = property(bite)\n"
    "sys.modules['odd_object'] = O()\n",
    "equality": BITE + "class E:\n    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = __iter__ = bite\n"
    "thing = E()\nheld = [E(), (E(),), {'k': E()}]\n",
    "lying_class": BITE + "class L:\n    __class__ = __dict__ = property(bite)\nthing = L()\n",
    "metaclass": BITE + "class Meta(type):\n    __instancecheck__ = __subclasscheck__ = bite\n"
    "    def __getattribute__(cls, name):\n        bite()\n    __eq__ = __hash__ = bite\n"
    "Thing = Meta('Thing', (), {})\n",
    "lazy_proxy": BITE + "class Proxy:\n    __slots__ = ()\n    __getattribute__ = __repr__ = bite\n"
    "thing = Proxy()\n",
    "dictionary": BITE + "class D(dict):\n    items = keys = values = __iter__ = __getitem__ = bite\n"
    "thing = D(a=1)\n",
    "property": BITE + "class P:\n    @property\n    def sleep(self):\n        bite()\nthing = P()\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("way", ["target", "command"])
def test_the_doctor_runs_no_code_of_what_it_looks_at(tmp_path, name, way):
    """It answers, with the code 0, and nothing of the module's own was called."""
    bitten = tmp_path / "bitten"
    (tmp_path / "hostile.py").write_text(HOSTILE[name].replace("{file!r}", repr(str(bitten))))
    (tmp_path / "app.py").write_text("import hostile\nfrom gevent import monkey\nmonkey.patch_all()\n")
    words = ["hostile"] if way == "target" else ["--", "python", "app.py"]
    run = run_clean(["-m", "greenkit", "doctor", "--json", *words], cwd=str(tmp_path))
    assert not bitten.exists(), run
    assert run.returncode == 0, run
    assert json.loads(run.stdout)["problem"] == ""


def test_the_bite_would_be_seen(tmp_path):
    """The trap springs: who reads an attribute leaves a trace."""
    bitten = tmp_path / "bitten"
    (tmp_path / "hostile.py").write_text(HOSTILE["attributes"].replace("{file!r}", repr(str(bitten))))
    run_clean(["-c", "import hostile, sys; sys.modules['odd_module'].x"], cwd=str(tmp_path))
    assert bitten.exists()
