import greenkit.auto  # noqa: F401, I001 - line 1: everything below is imported into a patched process
from shop.serve import serve

serve()
