import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shop.payments import Provider  # noqa: I001, F401 - an import sorter has put it here: too early
import greenkit.auto  # noqa: F401
from shop.serve import serve

serve()
