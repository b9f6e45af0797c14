"""The transports of a session and the movers they start; here the one of this machine."""

import asyncio

from vbrcore.api.types import ProcessView
from vbrcore.manager.log import SessionLog
from vbrcore.model.errors import TransportLost
from vbrcore.model.session import Session
from vbrcore.transport.client import MoverHandle, TransportClient
from vbrcore.transport.messages import Role

LOCAL = "local"


class Crew:
    """Starts the transport with the first mover, and another one when it was lost."""

    def __init__(self, session: Session, log: SessionLog) -> None:
        self._session = session
        self._log = log
        self._transport: TransportClient | None = None
        self._starting = asyncio.Lock()

    async def transport(self) -> TransportClient:
        async with self._starting:
            if self._transport is not None and self._transport.lost is not None:
                self._log.warning(f"transport on {LOCAL} was lost: {self._transport.lost}; starting another one")
                await self._transport.close()
                self._transport = None
            if self._transport is None:
                transport = TransportClient()
                await transport.start_local(self._session.job_id, self._session.session_id)
                self._transport = transport
            return self._transport

    async def start(self, role: Role, *, task_id: str, disk: str, server: str = LOCAL) -> MoverHandle:
        """Start a mover on a server; raises `TransportLost` or `MoverLost`."""
        if server != LOCAL:
            raise TransportLost(f"server {server} cannot be reached from here")
        transport = await self.transport()
        return await transport.start_mover(role, self._session.job_id, self._session.session_id, task_id, disk)

    def processes(self) -> tuple[ProcessView, ...]:
        """Return the transport and its movers, as last reported by it."""
        if self._transport is None or self._transport.lost is not None:
            return ()
        return tuple(
            ProcessView(
                kind="transport" if stat.role == "transport" else "mover",
                pid=stat.pid,
                parent_pid=stat.parent_pid,
                server=LOCAL,
                role=stat.role,
                job_id=self._session.job_id,
                session_id=self._session.session_id,
                task_id=stat.task_id,
                disk=stat.disk,
                cpu_percent=stat.cpu_percent,
                memory_bytes=stat.memory_bytes,
                log_path=str(self._log.path),
                job_name=self._session.name,
            )
            for stat in self._transport.stats
        )

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.close()
            self._transport = None
