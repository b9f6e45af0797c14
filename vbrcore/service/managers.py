"""Job managers of this service node: started, watched, and ended where they stopped renewing their lease, or hang when
they are asked to stop now. Their pids stand in the catalog, so a service that starts anew watches those of the one
before.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vbrcore.api.home import Home
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.processes import is_alive, process_started, processes_of
from vbrcore.manager.log import SessionLog, closing_line
from vbrcore.model.errors import LeaseLost, ManagerLost, VbrError
from vbrcore.model.session import Session, Totals

_log = logging.getLogger(__name__)

_STDERR_TAIL_BYTES = 2048
_KILL_PATIENCE_S = 5.0
_STOP_PATIENCE_S = 10.0  # a manager says something every second


class Managers:
    """Methods may be called from several threads; `check` from one at a time.

    `heard`: returns when a session's manager last said anything, by the monotonic clock.
    """

    def __init__(self, home: Home, catalog: Catalog, *, node: str, heard: Callable[[str], float]) -> None:
        self._home = home
        self._catalog = catalog
        self._node = node
        self._heard = heard
        self._stops_seen: dict[str, float] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(self, session: Session) -> None:
        """Submit a session, and run it unless another node does. Raises `JobAlreadyRunning`, `ManagerLost`."""
        self._catalog.submit_session(session)
        refused = self.run_submitted()
        if session.session_id in refused:
            raise refused[session.session_id]

    def run_submitted(self) -> dict[str, VbrError]:
        """Claim what was submitted and start the managers, which outlive this process.

        Returns what could not be started, by session id; these sessions have ended.
        """
        refused: dict[str, VbrError] = {}
        while True:
            with self._lock:
                session = self._catalog.claim_session(self._node)
                if session is None:
                    return refused
                try:
                    child = self._children[session.session_id] = self._spawn(session)
                except OSError as error:
                    lost = refused[session.session_id] = ManagerLost(
                        f"the job manager could not be started: {error.strerror}"
                    )
                    self._end(session, lost)
                    continue
            self._catalog.note_manager(session.session_id, child.pid, process_started(child.pid) or 0.0)
            _log.info(
                "session %s of %s (%s) started, pid %d", session.session_id, session.name, session.kind, child.pid
            )

    def check(self) -> bool:
        """Run what was submitted, and end the sessions whose managers are gone or hang; return whether any was."""
        self._reap()
        self.run_submitted()
        sessions = {one.session_id: one for one in self._catalog.live_sessions() if one.node == self._node}
        ended = False
        for session in sessions.values():
            if self._is_gone(session):
                self._end(session, ManagerLost(self._last_words(session)))
                ended = True
            elif self._ignores_stop(session) and self._kill(session):
                self._end(
                    session, ManagerLost("the job manager did not react when it was asked to stop, and was ended")
                )
                ended = True
        for session_id in self._catalog.stalled_sessions():
            ended = self._end_hanging(session_id) or ended
        for session_id in self._catalog.holders():
            if not self._is_held(session_id, sessions.get(session_id)):
                ended = self._release_if_gone(session_id) or ended
        self._stops_seen = {key: seen for key, seen in self._stops_seen.items() if key in sessions}
        return ended

    def is_idle(self) -> bool:
        """Tell whether no session lives, nothing is held, and all managers started here are gone."""
        return not self._children and not self._catalog.live_sessions() and not self._catalog.holders()

    # --- one session ----------------------------------------------------------------------------

    def _spawn(self, session: Session) -> "subprocess.Popen[bytes]":
        arguments = [sys.executable, "-m", "vbrcore", "job-manager", "--home", os.fspath(self._home.path)]
        arguments += ["--job-id", session.job_id, "--session-id", session.session_id]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        stderr = os.open(self._stderr(session.session_id), flags, 0o600)
        try:
            return subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
            )
        finally:
            os.close(stderr)

    def _stderr(self, session_id: str) -> Path:
        return self._home.run / f"{session_id}.stderr"

    def _reap(self) -> None:
        with self._lock:
            for session_id, child in list(self._children.items()):
                if child.poll() is not None:
                    del self._children[session_id]
        for path in self._home.run.glob("*.stderr"):
            if path.stat().st_size == 0 and path.stem not in self._children:
                path.unlink(missing_ok=True)

    def _is_gone(self, session: Session) -> bool:
        if session.session_id in self._children:
            return False
        if session.pid:
            if is_alive(session.pid, session.pid_started):
                return False
            # It may have ended properly since the session was read.
            return self._catalog.session(session.session_id).state != "ended"
        # The service was killed between writing the session and starting or noting its manager.
        return not processes_of(session.session_id) and time.time() - session.created > 1.0

    def _ignores_stop(self, session: Session) -> bool:
        """Tell whether a manager that must stop now has said nothing since: it was stopped itself, or hangs."""
        if session.stop_requested != "now":
            return False
        now = time.monotonic()
        seen = self._stops_seen.setdefault(session.session_id, now)
        return now - max(seen, self._heard(session.session_id)) > _STOP_PATIENCE_S

    def _is_held(self, session_id: str, live: Session | None) -> bool:
        """Tell whether the holder of a lease still runs, as far as this node can know."""
        if live is None and self._catalog.session(session_id).node != self._node:
            return True  # another node sees its processes, or its lease runs out
        return live is not None and is_alive(live.pid, live.pid_started)

    def _last_words(self, session: Session) -> str:
        """Return how a manager ended, as far as it said anything."""
        message = f"the job manager (pid {session.pid}) ended without a result"
        try:
            text = self._stderr(session.session_id).read_bytes()[-_STDERR_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return message
        return f"{message}: {text.splitlines()[-1]}" if text else message

    def _end(self, session: Session, error: VbrError) -> None:
        """End a session in the place of its manager, truthfully: failed, with what its finished tasks have done."""
        catalog, session_id = self._catalog, session.session_id
        _log.warning("session %s of %s: %s", session_id, session.name, error)
        catalog.fail_open_tasks(session_id, error.info())
        totals = Totals()
        for task in catalog.tasks(session_id):
            totals = totals.plus(task.totals)
        with SessionLog(self._home.session_log(session), job_id=session.job_id, session_id=session_id) as log:
            log.write("error", f"{error.code}: {error}", kind="service")
            log.write("error", closing_line(failed=True, name=session.name, job_id=session.job_id), kind="service")
        catalog.finish_session(
            session_id, result="failed", ended=time.time(), totals=totals, warnings=(), error=error.info()
        )

    def _release_if_gone(self, session_id: str) -> bool:
        """Free what a dead session holds at once if none of its processes is left, otherwise when its lease ends."""
        if processes_of(session_id):
            return False
        self._catalog.release_session(session_id)
        return True

    def _end_hanging(self, session_id: str) -> bool:
        """Kill the manager that did not renew its lease in time, then end lease and session."""
        session = self._catalog.session(session_id)
        if session.node == self._node and is_alive(session.pid, session.pid_started):
            _log.warning("session %s did not renew its lease in time: killing pid %d", session_id, session.pid)
            if not self._kill(session):
                return False
        if not self._catalog.end_expired(session_id):
            return False
        if session.state != "ended":
            self._end(session, LeaseLost("the job manager did not renew its lease in time and was ended"))
        return True

    def _kill(self, session: Session) -> bool:
        """SIGKILL ends a stopped process too. Return whether it is gone."""
        if not is_alive(session.pid, session.pid_started):
            return True
        os.kill(session.pid, signal.SIGKILL)
        give_up = time.monotonic() + _KILL_PATIENCE_S
        while is_alive(session.pid, session.pid_started):
            if time.monotonic() > give_up:
                return False
            time.sleep(0.01)
        return True
