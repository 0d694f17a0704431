import sys

from project import app, ask

calls, workers = map(int, sys.argv[1:])
while len(app.control.ping(timeout=1.0)) < workers:
    pass
for number in range(calls):
    ask.delay(f"prompt {number}")
