import greenkit.auto  # noqa: F401 - line 1: a greenlet per request instead of a thread

# isort: split
import argparse
import os
import signal
import socket
import sys

import gevent
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application
from gevent.pywsgi import WSGIServer


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve the API, its browsable pages and the admin.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="a listening socket inherited from the parent, instead")
    options = parser.parse_args()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    application = StaticFilesHandler(get_wsgi_application())
    place = (options.host, options.port) if options.fd is None else socket.socket(fileno=options.fd)
    server = WSGIServer(place, application, log=None)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.stop, 2)  # seconds for requests in flight
    try:
        server.serve_forever()
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
