"""Stands for the package: its prompt is a tenth of a worker's start, and no test types at Celery's prompt."""


def register_repl(*_):
    pass
