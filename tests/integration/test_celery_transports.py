"""A greenkit worker on brokers that are neither Redis nor AMQP: SQS, played by moto's server, and files."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")
VISIBILITY = 8  # seconds: longer than any task that is let run to its end


def stamps(directory: Path) -> int:
    return len(list(directory.glob("stamp-*")))


class Queue:
    """An SQS queue, and what it says of itself."""

    def __init__(self, port: int) -> None:
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
        self.client = boto3.client("sqs", endpoint_url=f"http://127.0.0.1:{port}", **keys)
        attributes = {"VisibilityTimeout": str(VISIBILITY)}
        self.url = self.client.create_queue(QueueName="celery", Attributes=attributes)["QueueUrl"]
        predefined = {"url": self.url, "access_key_id": "x", "secret_access_key": "y"}
        self.options: dict[str, Any] = {
            "region": "us-east-1", "is_secure": False, "wait_time_seconds": 1,
            "visibility_timeout": VISIBILITY, "predefined_queues": {"celery": predefined},
        }  # fmt: skip

    def holds(self) -> tuple[int, int]:
        """Return how many messages may be fetched, and how many are in somebody's hands."""
        told = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        return int(told["ApproximateNumberOfMessages"]), int(told["ApproximateNumberOfMessagesNotVisible"])


@pytest.fixture
def queue() -> Iterator[Queue]:
    """Give an empty queue of a server of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
            made = Queue(port)
            yield made
            made.client.close()
        finally:
            server.kill()


@pytest.fixture
def worker(queue: Queue, greenkit_valkey: ValkeyServer, tmp_path: Path) -> Iterator[Worker]:
    """Give a worker of that queue, not started."""
    with Worker("sqs://x:y@", greenkit_valkey.broker_url, greenkit_valkey.url, tmp_path) as made:
        made.app.conf.broker_transport_options = queue.options
        endpoint = queue.client.meta.endpoint_url
        made.environment |= {"AWS_ENDPOINT_URL": endpoint, "TEST_TRANSPORT": repr(queue.options)}
        made.environment["TEST_CONF"] = repr(
            {"worker_enable_remote_control": False, "worker_prefetch_multiplier": 3}
        )
        yield made


def test_sqs_runs_each_task_once_and_gives_back_what_is_not_done(
    worker: Worker, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late acks: done once each; again after a kill, when the visibility ends; and back after a SIGTERM."""
    monkeypatch.setitem(os.environ, "AWS_ENDPOINT_URL", worker.environment["AWS_ENDPOINT_URL"])
    green = ("-P", "gevent", "-c", "4", "--without-gossip")
    with worker.running(*green):
        for number in range(40):
            worker.send("stamp", number, 0.05, ignore_result=True)
        worker.wait(lambda: stamps(tmp_path) == 40 and queue.holds() == (0, 0))
        assert "FileExistsError" not in worker.text(), "a task ran twice"
        for number in range(100, 104):
            worker.send("stamp", number, 60.0, ignore_result=True)
        worker.wait(lambda: stamps(tmp_path) == 44)
        assert queue.holds() == (0, 4), "acknowledged before its end"
        worker.process.kill()
    with worker.running(*green):
        again = "raised unexpected: FileExistsError"
        worker.wait(lambda: worker.text().count(again) == 4 and queue.holds() == (0, 0))
        for number in range(200, 212):
            worker.send("stamp", number, 2.0, ignore_result=True)
        worker.wait(lambda: stamps(tmp_path) >= 48)
        assert worker.end() == 0
        ran = stamps(tmp_path) - 44
        assert ran < 12, "the backlog ran after the SIGTERM"
        worker.wait(lambda: queue.holds() == (12 - ran, 0))


def test_files_run_each_task_once_and_are_files_again(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """40 tasks run once each; after a SIGTERM what had not started is in the folder again."""
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(tmp_path))
    with Worker("filesystem://", greenkit_valkey.broker_url, greenkit_valkey.url, tmp_path) as worker:
        worker.app.conf.broker_transport_options = folders
        conf = {"worker_enable_remote_control": False, "worker_prefetch_multiplier": 3}
        with worker.running("-P", "gevent", "-c", "4", TEST_CONF=repr(conf)):
            for number in range(40):
                worker.send("stamp", number, 0.05, ignore_result=True)
            worker.wait(lambda: worker.text().count("succeeded in") == 40)
            assert stamps(tmp_path) == 40
            for number in range(100, 112):
                worker.send("stamp", number, 3.0, ignore_result=True)
            worker.wait(lambda: stamps(tmp_path) >= 44)
            assert worker.end() == 0
            ran = stamps(tmp_path) - 40
            assert ran + len(list(tmp_path.glob("*.msg"))) == 12
            assert ran < 12, "the backlog ran after the SIGTERM"
