"""The port through which sessions come to be run: submit, claim, heartbeat, finish, stalled.

`Catalog` is what implements it, with rows of sessions and holders; another engine (docs/adr) would do so with its own.
Between a claim and its begin a service node starts the manager's process: only that is the node's own, all else is the
same wherever the manager runs.
"""

from typing import Protocol

from vbrcore.model.errors import ErrorInfo
from vbrcore.model.session import Result, Session, Totals


class Runs(Protocol):
    """Each call is one transaction; "now" is the engine's clock."""

    def submit_session(self, session: Session) -> None:
        """Have a session run by whichever node claims it. Raises `JobAlreadyRunning`."""

    def claim_session(self, node: str) -> Session | None:
        """Make the oldest session that nobody has claimed this node's; None: there is none."""

    def begin_session(self, session_id: str, pid: int, pid_started: float) -> int:
        """Note that its manager runs, and begin its lease; return its epoch. Raises `LeaseLost`."""

    def renew(self, session_id: str) -> bool:
        """The manager's heartbeat: renew its lease; False if that was ended."""

    def finish_session(
        self,
        session_id: str,
        *,
        result: Result,
        ended: float,
        totals: Totals,
        warnings: tuple[str, ...],
        error: ErrorInfo | None,
        report: dict[str, object] | None = None,
    ) -> bool:
        """End a session; the first result stays. Return whether this was the first."""

    def stalled_sessions(self) -> tuple[str, ...]:
        """Return the ids of the sessions whose managers did not renew their leases in time."""
