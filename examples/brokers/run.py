"""Send 100 mails through each broker there is here: Valkey, RabbitMQ's quorum queue, files, and SQS."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from celery import Celery

from greenkit.errors import ServerNotFoundError
from greenkit.testing import RabbitServer, ValkeyServer

HERE = Path(__file__).parent
COUNT = 100


def valkey(stack):
    return stack.enter_context(ValkeyServer()).broker_url, {}, "classic"


def rabbitmq(stack):
    return stack.enter_context(RabbitServer()).broker_url, {}, "quorum"


def filesystem(stack):
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    names = ("data_folder_in", "data_folder_out", "control_folder")
    return "filesystem://", dict.fromkeys(names, folder), "classic"


def sqs(stack):
    """Use moto's server as the local SQS: pip install 'celery[sqs]' 'moto[server]'."""
    if find_spec("boto3") is None or shutil.which("moto_server") is None:
        raise ServerNotFoundError("needs pip install 'celery[sqs]' 'moto[server]'")
    import boto3  # late: only here

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    server = subprocess.Popen(["moto_server", "-p", str(port)], stderr=subprocess.DEVNULL)
    stack.callback(server.wait)
    stack.callback(server.terminate)
    until(lambda: answers(port))
    url = boto3.client("sqs").create_queue(QueueName="celery")["QueueUrl"]
    queue = {"url": url, "access_key_id": "x", "secret_access_key": "y"}
    options = {"region": "us-east-1", "is_secure": False, "predefined_queues": {"celery": queue}}
    return "sqs://x:y@", options, "classic"


def send_all(broker, options, kind):
    """Start a worker, send, wait for every mail; return the seconds and the worker's log."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ |= {
            "EXAMPLE_DIR": directory, "EXAMPLE_BROKER": broker, "EXAMPLE_QUEUE_TYPE": kind,
            "EXAMPLE_TRANSPORT": json.dumps(options),
        }  # fmt: skip
        argv = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "mail",
            "worker",
            "-P",
            "gevent",
            "-c",
            "50",
            "-l",
            "INFO",
        ]
        argv += ["--without-mingle", "--without-gossip"]  # SQS has no fan-out
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        worker = subprocess.Popen(argv, cwd=HERE, stdout=log, stderr=log)
        stack.callback(worker.wait)
        stack.callback(worker.terminate)
        until(lambda: log.seek(0) or " ready." in log.read() or worker.poll() is not None)
        if worker.poll() is not None:
            log.seek(0)
            raise SystemExit("the worker did not start:\n" + log.read()[-2000:])
        with Celery(broker=broker, set_as_current=False) as app:
            app.conf.update(broker_transport_options=options, task_default_queue_type=kind)
            began = time.monotonic()
            for number in range(COUNT):
                app.send_task("mail.send", (number,), ignore_result=True)
        until(lambda: len(list(Path(directory).glob("mail-*"))) == COUNT)
        took = time.monotonic() - began
        worker.terminate()
        worker.wait(30)
        log.seek(0)
        return took, log.read()


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it took too long")
        time.sleep(0.02)


def main():
    for place in (valkey, rabbitmq, filesystem, sqs):
        if sys.argv[1:] and place.__name__ not in sys.argv[1:]:
            continue
        with contextlib.ExitStack() as stack:
            try:
                broker, options, kind = place(stack)
            except ServerNotFoundError as error:
                print(f"{place.__name__:11} not here: {str(error)[:70]}")
                continue
            took, log = send_all(broker, options, kind)
            sent, twice = log.count("succeeded"), log.count("FileExistsError")
            print(f"{place.__name__:11} {sent} of {COUNT} sent, {twice} twice, {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
