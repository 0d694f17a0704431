import greenkit.auto  # noqa: F401 - line 1: patches before gunicorn loads the application

# isort: split
wsgi_app = "wsgi"
worker_class = "gevent"
workers = 2
worker_connections = 200  # streams and requests at once, for each worker
graceful_timeout = 30  # seconds a stream has left after SIGTERM
