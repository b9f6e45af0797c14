"""How gateways fared at shares, and which of them served a chain last. A cache: what is not known is tried."""

from typing import NamedTuple

from vbrcore.catalog.base import Rows


class Fared(NamedTuple):
    """`connect_s`: how long logging in took (None: it never worked). `away`: why it did not ("": it did)."""

    server: str
    connect_s: float | None
    away: str
    checked: float


class GatewayRows(Rows):
    """A share is known by its repository, a gateway by the name of its server."""

    def gateways_of(self, repository_id: str) -> dict[str, Fared]:
        sql = "SELECT server, connect_s, away, checked FROM gateways WHERE repository_id = ?"
        rows = self._database.rows(sql, (repository_id,))
        return {row["server"]: Fared(row["server"], row["connect_s"], row["away"], row["checked"]) for row in rows}

    def note_gateway(self, repository_id: str, fared: Fared) -> None:
        """Note how a gateway fared just now. What is away keeps the time that it took before."""
        sql = (
            "INSERT INTO gateways (repository_id, server, connect_s, away, checked) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (repository_id, server) DO UPDATE SET"
            " connect_s = coalesce(excluded.connect_s, connect_s), away = excluded.away, checked = excluded.checked"
        )
        with self._database.write() as connection:
            connection.execute(sql, (repository_id, *fared))

    def last_gateway(self, repository_id: str, directory: str) -> str:
        """Return the gateway of a chain's last session; "": it had none."""
        sql = "SELECT server FROM chain_gateways WHERE repository_id = ? AND directory = ?"
        row = self._database.row(sql, (repository_id, directory))
        return "" if row is None else str(row["server"])

    def note_last_gateway(self, repository_id: str, directory: str, server: str) -> None:
        sql = "INSERT OR REPLACE INTO chain_gateways (repository_id, directory, server) VALUES (?, ?, ?)"
        with self._database.write() as connection:
            connection.execute(sql, (repository_id, directory, server))
