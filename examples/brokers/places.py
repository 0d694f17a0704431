"""The brokers: each function starts one and returns (URL, transport options, type of its queues)."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

from greenkit.errors import ServerNotFoundError
from greenkit.testing import RabbitServer, ValkeyServer


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
    if find_spec("boto3") is None or find_spec("moto") is None or find_spec("pycurl") is None:
        raise ServerNotFoundError("needs pip install 'celery[sqs]' 'moto[server]'")
    import boto3  # late: only here

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    argv = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    stack.callback(server.wait)
    stack.callback(server.kill)
    while server.poll() is None and not answers(port):
        time.sleep(0.05)
    url = boto3.client("sqs").create_queue(QueueName="celery")["QueueUrl"]
    queue = {"url": url, "access_key_id": "x", "secret_access_key": "y"}
    options = {"region": "us-east-1", "is_secure": False, "predefined_queues": {"celery": queue}}
    return "sqs://x:y@", options, "classic"


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True


PLACES = {"valkey": valkey, "rabbitmq": rabbitmq, "filesystem": filesystem, "sqs": sqs}
