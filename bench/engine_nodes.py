"""The node processes of a measurement: started, stopped, killed, and what they said."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

CHECKOUT = Path(__file__).resolve().parents[1]


class Event(msgspec.Struct, frozen=True):
    """Something a node said. `at`: by the monotonic clock, which is one for all processes of a machine."""

    event: str
    at: float
    node: str = ""
    session: int = 0
    reason: str = ""


class Nodes:
    """Service nodes of one engine over one database; all are ended on leaving."""

    def __init__(self, engine: str, dsn: str, count: int, **times: float) -> None:
        self._said: list[Event] = []
        self._news = threading.Condition(threading.RLock())
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        options = [word for name, value in times.items() for word in (f"--{name}", str(value))]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        for number in range(count):
            node = f"node{number + 1}"
            command = [sys.executable, "-m", "bench.engine_node", engine, dsn, node, *options]
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=CHECKOUT
            )
            self._children[node] = child
            reader = threading.Thread(target=self._read, args=(node, child), daemon=True)
            reader.start()
            self._readers.append(reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()
        for reader in self._readers:
            reader.join()
        for child in self._children.values():
            if child.stdout is not None:
                child.stdout.close()

    def signal(self, node: str, number: signal.Signals) -> float:
        """Send a signal; return when."""
        self._children[node].send_signal(number)
        return time.monotonic()

    def events(self, event: str, **wanted: object) -> list[Event]:
        """Return what was said so far of one kind, in order of its time."""
        with self._news:
            found = [one for one in self._said if one.event == event]
        return sorted(
            (one for one in found if all(getattr(one, name) == value for name, value in wanted.items())),
            key=lambda one: one.at,
        )

    def wait(self, event: str, count: int = 1, *, patience_s: float = 60.0, **wanted: object) -> list[Event]:
        """Wait for that many such events; return all there are, fewer where they do not come in time."""
        self.until(lambda: len(self.events(event, **wanted)) >= count, patience_s)
        return self.events(event, **wanted)

    def until(self, condition: Callable[[], bool], patience_s: float) -> None:
        """Wait until something is so, not longer than `patience_s`."""
        give_up = time.monotonic() + patience_s
        with self._news:
            while not condition() and (left_s := give_up - time.monotonic()) > 0:
                self._news.wait(left_s)

    def _read(self, node: str, child: "subprocess.Popen[str]") -> None:
        for line in child.stdout or ():
            said: dict[str, Any] = json.loads(line)
            with self._news:
                self._said.append(msgspec.convert({**said, "node": node}, Event))
                self._news.notify_all()
