"""Clean-up after dead sessions: one session at a time that undoes what the journal names, again until all is undone."""

import logging
import time

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import VbrError
from vbrcore.model.ids import new_id
from vbrcore.model.session import Session
from vbrcore.service.managers import Managers

_log = logging.getLogger(__name__)

_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 300.0


class Cleanup:
    """`check` is called again and again by one thread; `pending` may be read by any."""

    def __init__(self, catalog: Catalog, managers: Managers) -> None:
        self.pending = False
        self._catalog = catalog
        self._managers = managers
        self._session_id = ""
        self._wait_s = 0.0
        self._not_before = 0.0
        self._failed_entries: frozenset[int] = frozenset()

    def check(self) -> None:
        """Start a clean-up where one is due.

        `pending` is true from the moment something is found until a clean-up has looked at it. What one could not undo
        is tried again later, and keeps nobody waiting.
        """
        if self._session_id:
            if self._catalog.session(self._session_id).state != "ended":
                return
            self._session_id = ""
            self._failed_entries = frozenset(row.entry_id for row in self._catalog.journal_orphans())
            self._wait_s = min(max(_FIRST_WAIT_S, self._wait_s * 2), _LONGEST_WAIT_S) if self._failed_entries else 0.0
            self._not_before = time.monotonic() + self._wait_s
        entries = frozenset(row.entry_id for row in self._catalog.journal_orphans())
        found = bool(entries - self._failed_entries)
        self.pending = found or self._catalog.has_unsettled_journal()
        if found or (entries and time.monotonic() >= self._not_before):
            self._start()

    def _start(self) -> None:
        live = next((one for one in self._catalog.live_sessions() if one.kind == "cleanup"), None)
        if live is not None:  # of the service before this one
            self._session_id = live.session_id
            return
        session = Session(
            session_id=new_id(),
            job_id="",
            name="cleanup",
            kind="cleanup",
            state="starting",
            result="none",
            manual=False,
            created=time.time(),
        )
        try:
            self._managers.start(session)
        except VbrError as error:
            _log.error("a clean-up could not be started: %s", error)
            self._not_before = time.monotonic() + _FIRST_WAIT_S
        else:
            self._session_id = session.session_id
