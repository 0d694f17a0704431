"""One place to wait: the main thread sleeps on the bell, everything that happens rings it.

Ctrl-C is such a happening. It interrupts nothing in the middle: it is looked at where the main
thread waits, and that is the only place where it spends time.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time


class TroubleError(Exception):
    """Stop with one line for the user.

    Attributes:
        code: The exit code: 2 when the user can mend it by other arguments, 1 otherwise.
    """

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class StoppedError(Exception):
    """A signal asked us to end."""


class Bell:
    """Wait for conditions that other threads and signals make true."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.signal = 0
        self.last_resort = list  # called by a second signal

    def ring(self) -> None:
        self._news.put(None)  # may be called from a signal handler: SimpleQueue is reentrant

    def listen(self) -> None:
        """Take over the signals that end a program."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, _frame: object) -> None:
        if self.signal:
            # Asked twice: no more politeness. The guardians of the servers see us die and tidy up.
            self.last_resort()
            os._exit(128 + number)
        self.signal = number
        self.ring()

    def wait(self, happened, *, timeout: float, what: str = "", ending: bool = False):
        """Wait until `happened()` is true, and return what it returned.

        Args:
            timeout: Seconds; then `TroubleError` with `what`, or a falsy return when that is empty.
            ending: We are stopping already: a signal no longer interrupts.
        """
        deadline = time.monotonic() + timeout
        while True:
            if self.signal and not ending:
                raise StoppedError
            found = happened()
            left = deadline - time.monotonic()
            if found or (left <= 0 and not what):
                return found
            if left <= 0:
                raise TroubleError(f"{what} took longer than {timeout:g} s")
            try:
                self._news.get(timeout=left)
            except queue.Empty:
                continue

    def pause(self, seconds: float) -> None:
        self.wait(lambda: False, timeout=seconds)


class Later:
    """Run a function in a thread; its end rings the bell."""

    def __init__(self, bell: Bell, fn, *args) -> None:
        self.done = False
        self.error: BaseException | None = None
        self.value = None
        self._bell = bell
        # Daemonic: a thread that hangs in a library must not keep an interrupted demo alive.
        self.thread = threading.Thread(target=self._run, args=(fn, *args), daemon=True)
        self.thread.start()

    def _run(self, fn, *args) -> None:
        try:
            self.value = fn(*args)
        except BaseException as error:
            self.error = error
        self.done = True
        self._bell.ring()

    def __call__(self) -> bool:
        """Tell whether it is done; raise what it raised."""
        if self.error is not None:
            raise self.error
        return self.done
