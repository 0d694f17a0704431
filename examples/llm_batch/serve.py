import greenkit.auto  # noqa: F401 - line 1: a greenlet per request instead of a thread

# isort: split
import argparse
import os
import signal
import socket
import sys

import gevent
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections
from gevent.pywsgi import WSGIServer


def stop(server: WSGIServer) -> None:
    from live.events import CLOSING  # late: its models need Django set up

    CLOSING.set()  # streams would last for as long as their browsers look
    server.stop(2)  # seconds for requests in flight


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve the API, its browsable pages and the admin.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="a listening socket inherited from the parent, instead")
    parser.add_argument(
        "--superuser", action="store_true", help="make one from DJANGO_SUPERUSER_USERNAME, _EMAIL, _PASSWORD"
    )
    parser.add_argument("--migrate", action="store_true", help="bring the database's tables up to date first")
    options = parser.parse_args()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    application = StaticFilesHandler(get_wsgi_application())
    if options.migrate:
        call_command("migrate", verbosity=0)
    if options.superuser:
        call_command("createsuperuser", interactive=False, verbosity=0)
    connections.close_all()  # back into the pool: this greenlet needs none any more
    place = (options.host, options.port) if options.fd is None else socket.socket(fileno=options.fd)
    server = WSGIServer(place, application, log=None)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop, server)
    try:
        server.serve_forever()
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
