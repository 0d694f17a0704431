"""Bring the real servers tests and demos run against, each a process we own."""

from __future__ import annotations

from greenkit.testing._mock_process import MockLLM

__all__ = ["MockLLM"]
