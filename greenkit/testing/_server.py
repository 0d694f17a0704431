"""The life of an embedded server: find, prepare, launch, kill or freeze, restart, remove.

The part all three servers share. Binaries, configuration, address and the log line that means ready are in
`_postgres`, `_valkey` and `_rabbit`; the guardian owns the processes.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, ClassVar

from greenkit.errors import GreenkitError, ServerStartError, WaitTimeout
from greenkit.testing._guardian_process import GuardianProcess
from greenkit.testing._place import server_uid

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EmbeddedServer"]


class EmbeddedServer:
    """Run a server in a private directory until it is stopped or the process ends.

    A context manager. Everything is stopped and removed on each way out: the end of the block, an exception,
    exit, Ctrl-C, SIGTERM and even SIGKILL of the process that started it.
    When the environment variable `variable` holds an address, that server is used instead: it is
    never started, stopped or hurt.

    Args:
        own: Start one even when the environment names one; needed to kill it.
        start_timeout: Seconds the server may take until it answers.
    """

    kind: ClassVar[str] = ""
    variable: ClassVar[str] = ""
    _ready: ClassVar[str] = ""
    _stop_signal: ClassVar[int] = signal.SIGTERM
    _end_signal: ClassVar[int] = signal.SIGKILL  # the directory goes too: nothing to save

    def __init__(self, *, own: bool = False, start_timeout: float = 30.0) -> None:
        self._given = "" if own else os.environ.get(self.variable, "")
        self._start_timeout = start_timeout
        self._guardian: GuardianProcess | None = None
        self._pid: int | None = None

    def __repr__(self) -> str:
        state = "given" if self._given else f"running, pid {self._pid}" if self._pid else "stopped"
        return f"<{type(self).__name__} {state}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def given(self) -> bool:
        """Tell whether this is a server from the environment, which must not be hurt."""
        return bool(self._given)

    @property
    def pid(self) -> int:
        """Return the server's main process."""
        if self._pid is None:
            raise self._refusal("has no process")
        return self._pid

    @property
    def directory(self) -> str:
        """Return the private directory, which exists from `start` to `stop`."""
        if self._guardian is None:
            raise self._refusal("has no directory")
        return self._guardian.directory

    def start(self) -> Self:
        """Start the server, or after `kill` start it again on the same data and address.

        Raises:
            ServerNotFoundError: No binary; the message names the package.
            ServerStartError: It did not come up; the message ends with its log.

        Switches: may
        """
        if self._given or self._pid is not None:
            return self
        try:
            if self._guardian is None:
                self._find()
                self._draw_ports()
                self._guardian = GuardianProcess(self.kind, uid=server_uid())
                self._prepare(self._guardian)
            self._pid = self._launch(self._guardian)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove its directory; doing it twice is fine.

        Switches: may
        """
        guardian, self._guardian, self._pid = self._guardian, None, None
        if guardian is not None:
            guardian.close()

    def kill(self) -> None:
        """SIGKILL every process of the server, as a crash would; `start` brings it back.

        Switches: may
        """
        self._running().ask("halt", number=int(signal.SIGKILL), timeout=0.0, reply_timeout=30.0)
        self._pid = None

    def restart(self, *, timeout: float = 30.0) -> None:
        """Stop the server in good order and start it again on the same data and address.

        Args:
            timeout: Seconds it may take to stop before it is killed.

        Switches: may
        """
        if self._pid is not None or self._given:
            self._running().ask(
                "halt", number=int(self._stop_signal), timeout=timeout, reply_timeout=timeout + 30.0
            )
            self._pid = None
        self.start()

    def freeze(self) -> None:
        """SIGSTOP every process: connections stay open and nothing answers. `thaw` ends it.

        Switches: may
        """
        self._running().ask("freeze", reply_timeout=30.0)

    def thaw(self) -> None:
        """SIGCONT every process.

        Switches: may
        """
        self._running().ask("signal", number=int(signal.SIGCONT), reply_timeout=30.0)

    def log_tail(self) -> str:
        """Return the last lines the server wrote.

        Switches: may
        """
        if self._guardian is None:
            raise self._refusal("has no log")
        return "\n".join(self._guardian.ask("tail", reply_timeout=30.0)["tail"])

    # -- for the three kinds -----------------------------------------------------------------------
    def _find(self) -> None:
        """Find the binaries, or raise `ServerNotFoundError`."""
        raise NotImplementedError

    def _prepare(self, guardian: GuardianProcess) -> None:
        """Fill the new directory."""
        raise NotImplementedError

    def _command(self, guardian: GuardianProcess) -> tuple[list[str], dict[str, str]]:
        """Return the server's argv and what its environment has besides the common."""
        raise NotImplementedError

    def _draw_ports(self) -> bool:
        """Choose the TCP ports anew; answer whether the server has any."""
        return False

    def _launch(self, guardian: GuardianProcess, *, tries: int = 3) -> int:
        try:
            return self._launch_once(guardian)
        except ServerStartError as error:
            # Another server took the port between the check and the server's bind.
            taken = any(words in str(error).lower() for words in ("address already in use", "eaddrinuse"))
            if not (taken and tries > 1 and self._draw_ports()):
                raise
        return self._launch(guardian, tries=tries - 1)

    def _launch_once(self, guardian: GuardianProcess) -> int:
        argv, env = self._command(guardian)
        answer = guardian.ask(
            "launch", argv=argv, env=self._environment(guardian, env), cwd=guardian.directory,
            ready=self._ready, timeout=self._start_timeout, end_signal=int(self._end_signal),
            reply_timeout=self._start_timeout + 10,
        )  # fmt: skip
        if "pid" not in answer:
            raise self._failure(argv[0], answer)
        return int(answer["pid"])

    def _run(
        self,
        guardian: GuardianProcess,
        argv: list[str],
        *,
        timeout: float = 60.0,
        env: dict[str, str] | None = None,
    ) -> None:
        """Run a helper program of the server to its end.

        Raises:
            ServerStartError: It failed, or took too long.
        """
        whole = self._environment(guardian, env or {})
        try:
            answer = guardian.ask(
                "run",
                argv=argv,
                env=whole,
                cwd=guardian.directory,
                timeout=timeout,
                reply_timeout=timeout + 10.0,
            )
        except WaitTimeout as error:
            raise ServerStartError(f"{argv[0]} is not done after {timeout + 10.0:g} s") from error
        if answer["status"] != 0:
            raise self._failure(argv[0], answer)

    def _environment(self, guardian: GuardianProcess, more: dict[str, str]) -> dict[str, str]:
        # Not the caller's environment: its PG…, RABBITMQ_… and ERL_… variables would lead to other servers.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
        return {
            "PATH": os.defpath, **kept, "LC_ALL": "C", "HOME": guardian.directory,
            "TMPDIR": guardian.directory, **more,
        }  # fmt: skip

    def _failure(self, program: str, answer: dict[str, Any]) -> ServerStartError:
        status = answer["status"]
        how = f"ended with status {status}" if status is not None else "did not get ready in time"
        tail = "\n".join(answer["tail"]) or "(it wrote nothing)"
        return ServerStartError(f"{program} {how}; the end of its log:\n{tail}")

    def _running(self) -> GuardianProcess:
        if self._guardian is None or self._pid is None:
            raise self._refusal("cannot be signalled")
        return self._guardian

    def _refusal(self, what: str) -> GreenkitError:
        name = type(self).__name__
        if self._given:
            return GreenkitError(
                f"{name} {what}: it is the one {self.variable} names, which is not ours to touch. "
                f"Use {name}(own=True) to start one that is."
            )
        return GreenkitError(
            f"{name} {what}: it is not running. Call start(), or use it in a with statement."
        )
