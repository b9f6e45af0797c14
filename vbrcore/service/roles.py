"""The roles that this service node holds. Of several nodes over one catalog one does each at a time."""

import logging
import time
from typing import Literal

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.times import LEASE_RENEWAL_S, LEASE_S

_log = logging.getLogger(__name__)

Role = Literal["balancer", "schedule", "cleanup"]


class Roles:
    """`holds` is asked before each piece of a role's work; it reads and writes the catalog every `LEASE_RENEWAL_S`."""

    def __init__(self, catalog: Catalog, node: str) -> None:
        self._catalog = catalog
        self._node = node
        self._asked: dict[Role, float] = {}
        self._held: dict[Role, bool] = {}

    def holds(self, role: Role) -> bool:
        """Return whether the role is this node's now. Raises what the catalog does, also after holding it."""
        now = time.monotonic()
        since_s = now - self._asked.get(role, -LEASE_S)
        if since_s < LEASE_RENEWAL_S:
            return self._held[role]
        held = self._catalog.take_role(role, self._node)
        self._asked[role] = now  # before the catalog's own reckoning began: here it ends earlier than there
        if held != self._held.get(role, False):
            _log.info("this node (%s) %s the role %s", self._node, "has" if held else "has lost", role)
        self._held[role] = held
        return held
