"""What one task may send between two sites, kept up to date while it runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, Self

from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.log import SessionLog
from vbrcore.model.errors import CatalogUnavailable
from vbrcore.model.network import NetworkRule, rule_between
from vbrcore.model.routes import Route
from vbrcore.mover.messages import SetRate
from vbrcore.transport.client import MoverHandle

_PERIOD_S: Final = 3.0


class Share:
    """A task's part of the limit of its pair of sites; a context manager that gives it back.

    `rate_bytes_s` is what the task begins with, `told_bytes_s` what its mover was told last (None: no limit).
    """

    def __init__(self, catalog: Catalog, log: SessionLog, route: Route, task_id: str) -> None:
        self._catalog = catalog
        self._log = log
        self._route = route
        self._task_id = task_id
        rule = self._rule()
        self.rate_bytes_s = None if rule is None else catalog.raise_share(rule, task_id)
        self.told_bytes_s = self.rate_bytes_s

    def _rule(self) -> NetworkRule | None:
        return rule_between(self._catalog.network_rules(), self._route.sites) if self._route.sites else None

    @contextlib.asynccontextmanager
    async def kept(self, handle: MoverHandle) -> AsyncIterator[None]:
        """Tell the mover of every change while this lasts."""
        keeping = asyncio.create_task(self._keep(handle), name="network-share") if self._route.sites else None
        try:
            yield
        finally:
            if keeping is not None:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the share back: the mover is gone."""
        if self._route.sites:
            self._catalog.free_share(self._task_id)

    async def _keep(self, handle: MoverHandle) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                rule = self._rule()
                rate = None if rule is None else self._catalog.raise_share(rule, self._task_id)
                before, self.told_bytes_s = self.told_bytes_s, rate
                if rate != before:
                    await handle.send(SetRate(rate))
                if rule is not None and rate is not None and (before is None or rate < before):
                    self._catalog.lower_share(rule, self._task_id, rate)
            except CatalogUnavailable as error:  # what it has stays its own for a lease's time
                self._log.warning(f"the limit between sites was not looked up: {error}")
