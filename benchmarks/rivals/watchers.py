"""Start one way of watching the hub, patched as it needs; each answers whether it saw a call block."""

import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def start(mode, limit):
    if mode == "blockbuster":
        return Blockbuster()  # before the patch, so that it wraps what gevent calls the originals
    from gevent import monkey

    monkey.patch_all()
    import gevent

    gevent.sleep(0)
    return {"nothing": Nothing, "watchdog": Reports, "monitor": Reports, "both": Reports, "forbid": Forbid}[
        mode
    ](mode, limit)


class Nothing:
    def __init__(self, mode, limit):
        pass

    def stop(self):
        pass


class Reports:
    """The watchdog, gevent's monitor thread, or both on the same blocks: they report, and never interfere."""

    def __init__(self, mode, limit):
        import gevent
        from gevent import config, events

        self.names = ("watchdog", "monitor") if mode == "both" else (mode,)
        self.now = 0
        self._seen = {name: set() for name in self.names}
        self._hub = gevent.get_hub()
        self._limit = limit
        if "watchdog" in self.names:
            from greenkit.watchdog import Watchdog

            self._dog = Watchdog(
                limit, report=lambda fact: fact.where and self._seen["watchdog"].add(self.now)
            )
            self._dog.start()
        if "monitor" in self.names:
            config.monitor_thread, config.print_blocking_reports = True, False
            config.max_blocking_time = limit
            events.subscribers.append(self._on_event)
            self._hub.start_periodic_monitoring_thread()
        gevent.sleep(2 * limit)

    def _on_event(self, event):
        if type(event).__name__ == "EventLoopBlocked":
            self._seen["monitor"].add(self.now)

    def seen(self, name):
        return self._seen[name]

    def forget(self):
        for seen in self._seen.values():
            seen.clear()

    def sees(self, call):
        import gevent

        self.forget()
        gevent.spawn(call).join()
        gevent.sleep(3 * self._limit)
        return "yes" if self.seen(self.names[0]) else "-"

    def stop(self):
        if "watchdog" in self.names:
            self._dog.stop()


class Forbid:
    """`greenkit.watchdog.forbid()`."""

    def __init__(self, mode, limit):
        from greenkit.watchdog import forbid

        self._forbid = forbid()
        self._forbid.__enter__()

    def sees(self, call):
        from greenkit.errors import BlockingCallError
        from greenkit.watchdog import forbid

        try:
            with forbid():
                call()
        except BlockingCallError:
            return "yes"
        return "-"

    def stop(self):
        self._forbid.__exit__(None, None, None)


class Blockbuster:
    """blockbuster's own wrappers, in a thread whose greenlets count as a running loop while `armed`."""

    def __init__(self):
        import blockbuster
        from blockbuster import blockbuster as inside

        self.armed = True
        self._error = blockbuster.BlockingError
        inside.asyncio = types.SimpleNamespace(get_running_loop=self._loop)
        self._buster = blockbuster.BlockBuster()
        # Reading a file is no fault here: gevent, as greenkit, lets it be.
        for name, function in self._buster.functions.items():
            if name.startswith(("time.", "socket.", "ssl.", "sqlite", "threading.")):
                function.can_block_functions.append(("gevent/", ()))
                function.activate()
        self.armed = False
        from gevent import monkey

        monkey.patch_all()
        self.armed = True

    def _loop(self):
        frame = sys._getframe(2)
        if not self.armed or "/gevent/" in frame.f_code.co_filename:
            raise RuntimeError

    def sees(self, call):
        try:
            call()
        except self._error:
            return "yes"
        return "-"

    def stop(self):
        self.armed = False
