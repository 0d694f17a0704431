"""The job for queues on threads or greenlets: requests on kept connections, psycopg2 on twenty."""

from __future__ import annotations

import os
import queue
import time

import psycopg2
import requests
from requests.adapters import HTTPAdapter

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Job:
    def __init__(self, http=None):
        size = int(os.environ["BENCH_CONCURRENCY"])
        self.http = http or requests.Session()
        if http is None:
            self.http.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=size))
        self.kept = queue.LifoQueue()
        for _ in range(20):
            self.kept.put(None)

    def run(self, number):
        began = time.time()
        answer = self.http.post(os.environ["BENCH_LLM"], json=BODY)
        answer.raise_for_status()
        answer.json()
        connection = self.kept.get()
        try:
            if connection is None:
                connection = psycopg2.connect(os.environ["BENCH_POSTGRES"])
                connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO done VALUES (%s, %s, %s)", (number, began, time.time()))
        finally:
            self.kept.put(connection)
