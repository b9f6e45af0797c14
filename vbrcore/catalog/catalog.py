"""The catalog: what there is, what runs, who holds what. One port for the service and for job managers.

All SQL of the house stays behind it. It is synchronous and safe from several threads; processes meet in the database
file. Methods raise `NotFound` for an id or name that is not there, `CatalogUnavailable` and `CatalogDamaged`.
"""

from pathlib import Path
from typing import Self

from vbrcore.catalog.audit import AuditRows
from vbrcore.catalog.chains import ChainRows
from vbrcore.catalog.clock import ClockRows
from vbrcore.catalog.database import Database
from vbrcore.catalog.gateways import GatewayRows
from vbrcore.catalog.inventory import InventoryRows
from vbrcore.catalog.jobs import JobRows
from vbrcore.catalog.journal import JournalRow, JournalRows
from vbrcore.catalog.keys import KeyRows
from vbrcore.catalog.leases import Held, LeaseRows, Waiting
from vbrcore.catalog.network import NetworkRows
from vbrcore.catalog.points import PointRows, StoredPoint
from vbrcore.catalog.schema import prepare
from vbrcore.catalog.serverstates import ServerStateRows
from vbrcore.catalog.sessions import SessionRows
from vbrcore.secrets.deployment import DeploymentKey

__all__ = ["CATALOG_NAME", "Catalog", "Held", "JournalRow", "StoredPoint", "Waiting"]

CATALOG_NAME = "catalog.db"


class Catalog(
    InventoryRows,
    ServerStateRows,
    NetworkRows,
    KeyRows,
    JobRows,
    SessionRows,
    JournalRows,
    LeaseRows,
    PointRows,
    ChainRows,
    GatewayRows,
    ClockRows,
    AuditRows,
):
    """The rows of one deployment; each noun's methods stand in its own module."""

    @classmethod
    def open(cls, home: Path) -> Self:
        """Open the catalog of a home directory, making it where there is none.

        Raises `CatalogNewer`, `CatalogDamaged`, `CatalogUnavailable`, `PermissionRefused`.
        """
        key = DeploymentKey(home / "secret.key")
        path = home / CATALOG_NAME
        if not path.exists():
            path.touch(mode=0o600)
        database = Database(path)
        try:
            prepare(database)
        except BaseException:
            database.close()
            raise
        return cls(database, key)

    def data_version(self) -> int:
        """Return a number that changes when another process (or another `Catalog`) has written: cheap to poll."""
        return self._database.data_version()

    def change_counts(self) -> tuple[int, int]:
        """Likewise two numbers, of which one also changes with what this `Catalog` writes."""
        return self._database.change_counts()

    def close(self) -> None:
        self._database.close()
