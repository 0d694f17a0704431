"""What `demo.py` is made of: start the parts, post a batch, watch it, stop everything.

Nothing here belongs in a project of yours; that is `project/` and `batches/`.
"""
