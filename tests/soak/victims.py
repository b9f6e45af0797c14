"""The living processes of a deployment by role, and the blows that they get."""

import contextlib
import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tests.soak.plan import Hit

_YOUNG_S: Final = 2.0  # a child still looks like its parent before it runs its own program
_POLL_S: Final = 0.002
_LONGEST_WAIT_S: Final = 6.0
_HELPERS: Final = frozenset({"qemu-nbd", "qemu-img", "prlimit", "setpriv", "sh"})


class Victim(msgspec.Struct, frozen=True):
    """A living process. `session_id` is that of its parent for a helper, empty for the service and for commands."""

    pid: int
    role: str
    session_id: str


class Blow(msgspec.Struct, frozen=True):
    """What was done to whom, `at_s` seconds after the round began."""

    blow: str
    role: str
    session_id: str
    moment: str
    at_s: float
    pid: int = 0
    pause_s: float = 0.0


class Watch:
    """Knows who belongs to a home by the environment; looks again and again only at those and at new processes."""

    def __init__(self, home: Path) -> None:
        self._mark = b"VBRCORE_HOME=" + os.fsencode(home)
        self._strangers: dict[int, float] = {}

    def living(self) -> list[Victim]:
        """Return all processes of the home that are no zombies."""
        now = time.monotonic()
        present = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - names only, often
        self._strangers = {pid: seen for pid, seen in self._strangers.items() if pid in present}
        found = []
        for pid in present:
            first = self._strangers.get(pid)
            if first is not None and now - first > _YOUNG_S:
                continue
            victim = self._victim(pid)
            if victim is None:
                self._strangers.setdefault(pid, now)
            else:
                self._strangers.pop(pid, None)
                found.append(victim)
        return found

    def of_sessions(self) -> list[Victim]:
        return [victim for victim in self.living() if victim.role not in {"service", "command"}]

    def _victim(self, pid: int) -> Victim | None:
        try:
            if self._mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return None
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] in "ZX" or pid == os.getpid():
            return None
        role = _role(words)
        session_id = _after(words, "--session-id")
        if role == "qemu":
            with contextlib.suppress(OSError):
                parent = Path(f"/proc/{fields[1]}/cmdline").read_bytes().decode(errors="replace").split("\0")
                session_id = _after(parent, "--session-id")
        return Victim(pid, role, session_id)


def _role(words: list[str]) -> str:
    if Path(words[0]).name in _HELPERS:
        return "qemu"
    if "mover" in words:
        return _after(words, "--role")
    for role in ("job-manager", "transport"):
        if role in words:
            return role
    return "service" if words[3:5] == ["service", "run"] else "command"


def _after(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words[:-1] else ""


class Striker:
    """Carries out the hits of one round.

    `said`: does a session's log of this round have a line with a text? `writes`: is there a backup file of this round?
    """

    def __init__(
        self,
        watch: Watch,
        rng: random.Random,
        *,
        said: Callable[[str], bool],
        writes: Callable[[], bool],
        running: Callable[[], bool],
    ) -> None:
        self._watch = watch
        self._rng = rng
        self._said = said
        self._writes = writes
        self._running = running
        self._began = time.monotonic()

    def strike(self, hit: Hit) -> Blow | None:
        """Wait for the moment and strike. Returns None where all was over by then."""
        if hit.moment == "phase":
            self._wait(lambda: self._said(hit.phase))
        elif hit.moment == "write":
            self._wait(self._writes)
        elif hit.moment != "any":
            self._wait(lambda: any(one.role == hit.role for one in self._watch.living()))
        time.sleep(hit.delay_s)
        victim = self._choose(hit.role)
        if victim is None:
            return None
        at_s = round(time.monotonic() - self._began, 4)
        try:
            descriptor = os.pidfd_open(victim.pid)
        except ProcessLookupError:
            return None
        try:
            if not self._send(descriptor, signal.SIGKILL if hit.blow == "kill" else signal.SIGSTOP):
                return None
            if hit.blow != "kill":
                # The descriptor can be read when the process is gone: who hangs is killed by who waits for it.
                select.select([descriptor], [], [], hit.pause_s)
                self._send(descriptor, signal.SIGCONT)
        finally:
            os.close(descriptor)
        return Blow(hit.blow, victim.role, victim.session_id, hit.moment, at_s, victim.pid, round(hit.pause_s, 2))

    def _wait(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + _LONGEST_WAIT_S
        while time.monotonic() < give_up and self._running() and not condition():
            time.sleep(_POLL_S)

    def _choose(self, role: str) -> Victim | None:
        """Prefer the role; else any role but a client's; else, while something runs, the next that comes."""
        while True:
            by_role: dict[str, list[Victim]] = {}
            for victim in self._watch.living():
                by_role.setdefault(victim.role, []).append(victim)
            others = [name for name in by_role if name not in {"service", "command"}]
            if role in by_role or others:
                return self._rng.choice(by_role[role if role in by_role else self._rng.choice(others)])
            if not self._running():
                return None
            time.sleep(_POLL_S)

    @staticmethod
    def _send(descriptor: int, number: signal.Signals) -> bool:
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        return True
