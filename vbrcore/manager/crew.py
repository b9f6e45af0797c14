"""The transports of a session, one on each server it uses, and the movers they start."""

import asyncio
import os
from pathlib import Path

from vbrcore.api.types import ProcessView
from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.log import SessionLog
from vbrcore.model.errors import HostKeyChanged, LoginRefused, ServerUnreachable, VbrError
from vbrcore.model.inventory import LOCAL_SERVER
from vbrcore.model.session import Session
from vbrcore.transport.bundle import Bundles
from vbrcore.transport.client import MoverHandle, TransportClient
from vbrcore.transport.messages import ProcessStats, Role
from vbrcore.transport.ssh import open_connection

# A server that answers so takes nothing new, from any session, until it lets us in again.
NOT_REACHED = (ServerUnreachable, HostKeyChanged, LoginRefused)


class Crew:
    """Starts a server's transport with its first mover there, and another one when it was lost."""

    def __init__(self, session: Session, log: SessionLog, catalog: Catalog, home: Path) -> None:
        self._session = session
        self._log = log
        self._catalog = catalog
        self._bundles = Bundles(home / "cache")
        self._transports: dict[str, TransportClient] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._keepers: set[asyncio.Task[None]] = set()

    async def transport(self, server: str = LOCAL_SERVER) -> TransportClient:
        """Return the living transport on a server, by its name.

        Raises `NotFound` for a name, `ServerUnreachable`, `HostKeyChanged`, `LoginRefused`, `ServerUnsuitable`,
        `WheelsMissing`, `TransportLost`.
        """
        async with self._starting.setdefault(server, asyncio.Lock()):
            known = self._transports.get(server)
            if known is not None and known.lost is not None:
                self._log.warning(f"transport on {server} was lost: {known.lost}; starting another one")
                del self._transports[server]
                await known.close()
                known = None
            if known is None:
                known = await self._started(server)
                self._transports[server] = known
            return known

    async def _started(self, name: str) -> TransportClient:
        transport = TransportClient(server=name)
        job_id, session_id = self._session.job_id, self._session.session_id
        server = self._catalog.server_by_name(name)
        if server.ssh is None:
            await transport.start_local(job_id, session_id)
            return transport
        secrets = self._catalog.server_secrets(server.server_id)
        try:
            connection = await open_connection(server.ssh, secrets, name=name)
            sent = await transport.start_remote(connection, self._bundles, job_id, session_id)
        except NOT_REACHED as error:
            self._catalog.note_server_away(server.server_id, str(error))
            raise
        if self._catalog.server_state(server.server_id).away:
            self._catalog.note_server_there(server.server_id)
        hello = transport.hello
        self._log.info(
            f"transport on {name} started: Python {hello.python}, {hello.cores} cores, clock"
            f" {transport.clock_offset_s:+.3f} s{', its bundle was sent' if sent else ''}"
        )
        keeper = asyncio.create_task(self._keep_left_logs(transport), name=f"left-logs-{name}")
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return transport

    async def start(self, role: Role, *, task_id: str, disk: str, server: str = LOCAL_SERVER) -> MoverHandle:
        """Start a mover on a server, by its name; raises `MoverLost` and what `transport` raises."""
        transport = await self.transport(server)
        return await transport.start_mover(role, self._session.job_id, self._session.session_id, task_id, disk)

    def processes(self) -> tuple[ProcessView, ...]:
        """Return the transports and their movers, as last reported by them."""
        return tuple(
            self._view(transport, stat)
            for transport in self._transports.values()
            if transport.lost is None
            for stat in transport.stats
        )

    def _view(self, transport: TransportClient, stat: ProcessStats) -> ProcessView:
        is_transport = stat.role == "transport"
        # What started a transport on another server is an sshd there; for people it is this manager's.
        parent_pid = os.getpid() if is_transport else stat.parent_pid
        return ProcessView(
            kind="transport" if is_transport else "mover",
            pid=stat.pid,
            parent_pid=parent_pid,
            server=transport.server,
            role=stat.role,
            job_id=self._session.job_id,
            session_id=self._session.session_id,
            task_id=stat.task_id,
            disk=stat.disk,
            cpu_percent=stat.cpu_percent,
            memory_bytes=stat.memory_bytes,
            log_path=stat.log_path or str(self._log.path),
            job_name=self._session.name,
        )

    async def _keep_left_logs(self, transport: TransportClient) -> None:
        """Take over what movers that were cut off have left on a server: it lies beside their session's log then."""
        while True:
            left = await transport.left_logs.get()
            try:
                path = await asyncio.to_thread(self._log.keep_left, transport.server, left.name, left.data)
                self._log.warning(f"a mover was cut off on {transport.server} earlier: its last lines are in {path}")
                await transport.forget_log(left.name)
            except (OSError, VbrError) as error:  # it stays there for the next session
                self._log.warning(f"the last lines of a mover on {transport.server} cannot be fetched: {error}")

    async def close(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        transports, self._transports = list(self._transports.values()), {}
        await asyncio.gather(*(transport.close() for transport in transports))
