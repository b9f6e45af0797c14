"""Reaches managed servers, beside everything else: when somebody asks, and again and again where one is away."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import VbrError
from vbrcore.model.inventory import Server
from vbrcore.model.serverfacts import ServerFacts
from vbrcore.secrets.secret import Secret
from vbrcore.transport.ssh import open_connection
from vbrcore.transport.survey import connecting_takes_s, survey, survey_here

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_AT_ONCE = 8  # servers that are tried at the same time


class ServerWatch:
    """`run` ends when it is cancelled. `changed` is called when a server is back, so that what waits for it goes on."""

    def __init__(self, catalog: Catalog, changed: Callable[[], None]) -> None:
        self._catalog = catalog
        self._changed = changed
        self._trying: dict[str, asyncio.Task[None]] = {}

    async def check(self, server: Server) -> None:
        """Look at a server and note what is there. Raises why it could not be reached, having noted that too."""
        secrets = await asyncio.to_thread(self._catalog.server_secrets, server.server_id)
        try:
            facts = await look_at(server, secrets)
        except VbrError as error:
            await asyncio.to_thread(self._catalog.note_server_away, server.server_id, str(error))
            self._changed()
            raise
        await asyncio.to_thread(self._catalog.note_server_there, server.server_id, facts)
        self._changed()

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self._try_due()
                except VbrError as error:
                    _log.error("servers that are away are not looked at: %s", error)
                await asyncio.sleep(_LOOK_S)
        finally:
            tasks = list(self._trying.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _try_due(self) -> None:
        """Begin to try those that are due; a slow one holds up nobody."""
        self._trying = {server_id: task for server_id, task in self._trying.items() if not task.done()}
        states = await asyncio.to_thread(self._catalog.server_states)
        due = [one for one in states.values() if one.away and one.next_try <= time.time()]
        for state in sorted(due, key=lambda one: one.next_try)[: _AT_ONCE - len(self._trying)]:
            if state.server_id not in self._trying:
                task = asyncio.create_task(self._try(state.server_id), name=f"server-{state.server_id}")
                self._trying[state.server_id] = task

    async def _try(self, server_id: str) -> None:
        try:
            server = await asyncio.to_thread(self._catalog.server, server_id)
            await self.check(server)
        except VbrError as error:
            _log.info("still away: %s", error)
        except Exception:  # noqa: BLE001 - whoever watches must not end by one server
            _log.exception("server %s could not be looked at", server_id)
        else:
            _log.info("server %s is back", server.name)


async def look_at(server: Server, secrets: Mapping[str, Secret]) -> ServerFacts:
    """Log in to a server (this machine needs no login) and return what is there.

    Raises `ServerUnreachable`, `HostKeyChanged`, `LoginRefused`, `CommandFailed`.
    """
    if server.ssh is None:
        return await survey_here(server)
    took_s = await connecting_takes_s(server.ssh.host, server.ssh.port)
    async with await open_connection(server.ssh, secrets, name=server.name) as connection:
        return await survey(connection, server, connect_s=took_s)
