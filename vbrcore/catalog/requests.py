"""Demands as rows. Thousands of them have the same choices, which are by far the most of each: they are kept once."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator

import msgspec

from vbrcore.balancer.demand import Choice, Demand, Pending

_Query = Callable[[str], Iterable[sqlite3.Row]]


def put_request(connection: sqlite3.Connection, demand: Demand) -> None:
    """Let a demand wait, instead of an earlier one of its id."""
    choices = msgspec.json.encode(demand.choices).decode()
    choices_id = hashlib.sha256(choices.encode()).hexdigest() if demand.choices else ""
    if choices_id and not connection.execute("SELECT 1 FROM choices WHERE choices_id = ?", (choices_id,)).fetchone():
        connection.execute("DELETE FROM choices WHERE choices_id NOT IN (SELECT choices_id FROM requests)")
        connection.execute("INSERT INTO choices (choices_id, choices) VALUES (?, ?)", (choices_id, choices))
    rest = msgspec.json.encode(msgspec.structs.replace(demand, choices=())).decode()
    connection.execute(
        "INSERT OR REPLACE INTO requests (demand_id, session_id, demand, choices_id, reason, detail, place)"
        " VALUES (?, ?, ?, ?, '', '', 0)",
        (demand.demand_id, demand.session_id, rest, choices_id),
    )


class Requests:
    """Reads demands; the choices that are waited for now stay decoded from one time to the next."""

    def __init__(self) -> None:
        self._choices: dict[str, tuple[Choice, ...]] = {}
        self._decode = msgspec.json.Decoder(Demand).decode

    def read(self, query: _Query) -> Iterator[tuple[sqlite3.Row, Pending]]:
        """Yield each row and what it says; one that is granted or cancelled while this reads may be left out."""
        rows = list(query("SELECT demand_id, demand, choices_id, reason, detail, place, passed_since FROM requests"))
        choices = self._choices_of({row["choices_id"] for row in rows}, query)
        for row in rows:
            demand = self._decode(row["demand"])
            if choices_id := row["choices_id"]:
                if choices_id not in choices:
                    continue
                demand = msgspec.structs.replace(demand, choices=choices[choices_id])
            yield row, Pending(demand, row["passed_since"])

    def _choices_of(self, wanted: set[str], query: _Query) -> dict[str, tuple[Choice, ...]]:
        wanted.discard("")
        known = {name: choices for name, choices in self._choices.items() if name in wanted}
        if len(known) < len(wanted):
            for row in query("SELECT choices_id, choices FROM choices"):
                if row["choices_id"] in wanted and row["choices_id"] not in known:
                    known[row["choices_id"]] = msgspec.json.decode(row["choices"], type=tuple[Choice, ...])
        self._choices = known
        return known
