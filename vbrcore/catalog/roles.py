"""Roles: what one service node does for all of them, held by a row that ends by the catalog's clock."""

from vbrcore.catalog.base import Rows
from vbrcore.catalog.database import NOW
from vbrcore.model.times import LEASE_S


class RoleRows(Rows):
    """One row a role: its holder, how often it changed hands, and until when it is held."""

    def take_role(self, name: str, node: str) -> bool:
        """Take a role, or keep it, for another `LEASE_S`; False while another node holds it."""
        with self._database.write() as connection:
            taken = connection.execute(
                "INSERT INTO roles (name, node, epoch, expires)"  # noqa: S608 - our own clock
                f" VALUES (?1, ?2, 1, {NOW} + ?3) ON CONFLICT (name) DO UPDATE"
                " SET node = excluded.node, expires = excluded.expires,"
                " epoch = epoch + (node != excluded.node)"
                f" WHERE node = excluded.node OR expires < {NOW} RETURNING epoch",
                (name, node, LEASE_S),
            ).fetchone()
        return taken is not None

    def roles(self) -> dict[str, str]:
        """Return which node last held each role."""
        return {row["name"]: row["node"] for row in self._database.rows("SELECT name, node FROM roles")}
