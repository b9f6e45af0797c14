"""How managed servers are: what a check found there, and which cannot be reached."""

import time
from collections.abc import Mapping

import msgspec

from vbrcore.catalog.base import Rows
from vbrcore.catalog.rows import RowType
from vbrcore.model.serverfacts import Finding, ServerFacts, ServerState

_STATES = RowType("server_states", ServerState, "server_id", nested=("facts",))
# A server that is away is tried again so long after it was found away, and twice as long after each further time.
_FIRST_TRY_S = 5.0
_LONGEST_TRY_S = 300.0


class ServerStateRows(Rows):
    """One row a server that anybody has tried to reach."""

    def server_states(self) -> dict[str, ServerState]:
        """Return what is known, by server id."""
        found = self._all(_STATES, "server_id")
        return {state.server_id: state for state in found}

    def server_state(self, server_id: str) -> ServerState:
        """Return what is known of a server, which may be nothing."""
        row = self._database.row(f"{_STATES.select_sql} WHERE server_id = ?", (server_id,))
        return ServerState(server_id) if row is None else _STATES.struct(row)

    def note_server_away(self, server_id: str, why: str) -> None:
        """Note that a server could not be reached: it takes nothing new until it answers."""
        known = self.server_state(server_id)
        wait_s = min(_LONGEST_TRY_S, _FIRST_TRY_S * 2 ** min(known.failures, 10))
        self._keep(msgspec.structs.replace(known, away=why, failures=known.failures + 1, next_try=time.time() + wait_s))

    def note_server_there(self, server_id: str, facts: ServerFacts | None = None) -> None:
        """Note that a server has answered, and what was found there. What plugins found before stays."""
        known = msgspec.structs.replace(self.server_state(server_id), away="", failures=0, next_try=0.0)
        if facts is not None:
            before = {} if known.facts is None else known.facts.hypervisors
            facts = msgspec.structs.replace(facts, hypervisors=before)
            known = msgspec.structs.replace(known, checked=time.time(), facts=facts)
        self._keep(known)

    def note_hypervisors(self, server_id: str, found: Mapping[str, tuple[Finding, ...]]) -> None:
        """Note what plugins found of the hypervisors tied to a server, in the place of what they found before."""
        known = self.server_state(server_id)
        facts = msgspec.structs.replace(known.facts or ServerFacts(), hypervisors=dict(found))
        self._keep(msgspec.structs.replace(known, facts=facts))

    def _keep(self, state: ServerState) -> None:
        """A server that was removed meanwhile keeps no row."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM server_states WHERE server_id = ?", (state.server_id,))
            if connection.execute("SELECT 1 FROM servers WHERE server_id = ?", (state.server_id,)).fetchone():
                connection.execute(_STATES.insert_sql, _STATES.values(state))
