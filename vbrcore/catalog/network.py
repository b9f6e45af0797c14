"""Rules for pairs of sites, and what each running task may send of their limits."""

import sqlite3

from vbrcore.catalog.base import Rows
from vbrcore.catalog.database import NOW
from vbrcore.catalog.rows import RowType
from vbrcore.model.errors import NotFound
from vbrcore.model.network import NetworkRule
from vbrcore.model.times import LEASE_S

_RULES = RowType("network_rules", NetworkRule, "site_a")
_MINE = "site_a = ? AND site_b = ?"


class NetworkRows(Rows):
    """Shares are a ledger: the sum of a pair's shares is never more than its limit, whoever asks and when.

    A share ends with its session's lease time, unless it is asked for again.
    """

    def set_network_rule(self, rule: NetworkRule) -> None:
        """Make this the rule of its pair of sites."""
        with self._database.write() as connection:
            connection.execute(f"DELETE FROM network_rules WHERE {_MINE}", (rule.site_a, rule.site_b))  # noqa: S608
            connection.execute(_RULES.insert_sql, _RULES.values(rule))

    def remove_network_rule(self, rule: NetworkRule) -> None:
        """Take the rule of this pair away. Raises `NotFound`."""
        with self._database.write() as connection:
            sql = f"DELETE FROM network_rules WHERE {_MINE}"  # noqa: S608
            if not connection.execute(sql, (rule.site_a, rule.site_b)).rowcount:
                raise NotFound(f"no rule between the sites {rule.site_a!r} and {rule.site_b!r}")

    def network_rules(self) -> tuple[NetworkRule, ...]:
        return self._all(_RULES, "site_a")

    def raise_share(self, rule: NetworkRule, task_id: str) -> int:
        """Return what a task may send from now on, in bytes per second; more than before is noted at once.

        Less is noted by `lower_share`, when the mover knows of it: nobody is given what is still being used.
        """
        with self._database.write() as connection:
            connection.execute(f"DELETE FROM network_shares WHERE expires < {NOW}")  # noqa: S608
            wanted, mine = _wanted(connection, rule, task_id)
            _note(connection, rule, task_id, max(wanted, mine))
        return wanted

    def lower_share(self, rule: NetworkRule, task_id: str, bytes_s: int) -> None:
        """Note that a task sends no more than this."""
        with self._database.write() as connection:
            _note(connection, rule, task_id, bytes_s)

    def free_share(self, task_id: str) -> None:
        """Give back what a task has; none is no error."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM network_shares WHERE task_id = ?", (task_id,))


def _wanted(connection: sqlite3.Connection, rule: NetworkRule, task_id: str) -> tuple[int, int]:
    """Return an equal share of the limit, as far as others leave that much, and what the task has now."""
    shares: dict[str, int] = dict(
        connection.execute(
            f"SELECT task_id, bytes_s FROM network_shares WHERE {_MINE}",  # noqa: S608
            (rule.site_a, rule.site_b),
        ).fetchall()
    )
    mine = shares.pop(task_id, 0)
    left = max(0, rule.rate_limit_bytes_s - sum(shares.values()))
    return min(rule.rate_limit_bytes_s // (len(shares) + 1), left), mine


def _note(connection: sqlite3.Connection, rule: NetworkRule, task_id: str, bytes_s: int) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO network_shares (task_id, site_a, site_b, bytes_s, expires)"  # noqa: S608
        f" VALUES (?, ?, ?, ?, {NOW} + ?)",
        (task_id, rule.site_a, rule.site_b, bytes_s, LEASE_S),
    )
