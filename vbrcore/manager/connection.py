"""A hypervisor connection for the manager's event loop: one blocking plugin call at a time, in a thread."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import HypervisorFailed, VbrError
from vbrcore.model.inventory import LOCAL_SERVER
from vbrcore.model.inventory import Hypervisor as HypervisorRow
from vbrcore.plugins.api import Hypervisor, ManagedHost, Plugin
from vbrcore.plugins.loader import load, settings_from

P = ParamSpec("P")
R = TypeVar("R")


class Connection:
    """`plugin` is loaded and `hypervisor` is open after `connect`; `host` is the server it is tied to."""

    def __init__(self, row: HypervisorRow, plugin: Plugin, hypervisor: Hypervisor, host: ManagedHost | None) -> None:
        self.row = row
        self.plugin = plugin
        self.hypervisor = hypervisor
        self.host = host
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def connect(cls, catalog: Catalog, row: HypervisorRow) -> "Connection":
        secrets = catalog.hypervisor_secrets(row)
        host = managed_host(catalog, row.server)

        def open_it() -> tuple[Plugin, Hypervisor]:
            plugin = load(row.plugin)
            return plugin, plugin.connect(settings_from(plugin, row.settings), secrets, host)

        plugin, hypervisor = await asyncio.to_thread(_typed, row.name, open_it)
        return cls(row, plugin, hypervisor, host)

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one method of the hypervisor in a thread. An unexpected exception becomes `HypervisorFailed`."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(lambda: _typed(self.row.name, function, *args, **kwargs))

    async def close(self) -> None:
        await self.call(self.hypervisor.close)


def managed_host(catalog: Catalog, name: str) -> ManagedHost | None:
    """Return how a managed server is logged in to; None for the backup server itself."""
    if not name or name == LOCAL_SERVER:
        return None
    server = catalog.server_by_name(name)
    if server.ssh is None:
        return None
    secrets = {key: secret.reveal() for key, secret in catalog.server_secrets(server.server_id).items()}
    return ManagedHost(server.name, server.ssh, secrets)


def _typed(name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return function(*args, **kwargs)
    except VbrError:
        raise
    except Exception as error:
        raise HypervisorFailed(f"{name}: {type(error).__name__}: {error}") from error
