"""Calls of the LLM, under one limit for web processes and workers together."""

import json
import os

import greenkit.http
from greenkit import Limiter

llm = Limiter(
    "web-llm",
    requests="600/min burst 5",
    concurrency=50,
    share=os.environ["REDIS_URL"],
    feedback="openai",
)
http = greenkit.http.session(50)


def post(prompt, **options):
    reply = http.post(
        os.environ["LLM_URL"] + "/v1/chat/completions",
        json={"model": "mock", "messages": [{"role": "user", "content": prompt}], **options},
        stream="stream" in options,
    )
    llm.observe(reply.status_code, reply.headers)
    reply.raise_for_status()
    return reply


def ask(prompt, timeout):
    with llm.permit(timeout=timeout):
        return post(prompt).json()["choices"][0]["message"]["content"]


def stream(prompt, timeout):
    """Yield the words of the answer as they come; the permit is held until the last, or until `close()`."""
    with llm.permit(timeout=timeout), post(prompt, stream=True) as reply:
        for line in reply.iter_lines(chunk_size=None):
            data = line.removeprefix(b"data: ")
            if data and data != b"[DONE]":
                yield from (one["delta"].get("content") for one in json.loads(data)["choices"])
