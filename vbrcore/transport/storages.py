"""The storage of any repository, for code that looks at its files without being where they lie.

A directory of this machine is opened in this process. Everything else is opened by a storage mover on the server beside
it: the repository's own, or the gateway of a share. One mover serves all who ask for a repository, until `close`.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from vbrcore.model.errors import ProtocolError, VbrError
from vbrcore.model.inventory import LOCAL_SERVER, Repository
from vbrcore.model.place import Place
from vbrcore.storage.port import Storage
from vbrcore.storage.repository import check_identity, open_repository
from vbrcore.transport.client import MoverHandle
from vbrcore.transport.remotestorage import RemoteStorage

T = TypeVar("T")
Purpose = Literal["open", "create", "look"]
STORAGE_ROLE: Final = "storage"


class Storages:
    """Its blocking methods are for other threads than that of the event loop in which it was made.

    `start`: start a storage mover on a server, by name, that shows this text in process lists. `place`: what opens a
    repository, with its secret.
    """

    def __init__(
        self, start: Callable[[str, str], Awaitable[MoverHandle]], place: Callable[[Repository], Place]
    ) -> None:
        self._start = start
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, str], RemoteStorage] = {}

    def open(self, repository: Repository) -> Storage:
        """Return the storage at a repository's root; its identity was looked at just now. Never makes anything.

        Raises `RepositoryNotMounted`, `ShareUnreachable`, `ShareRefused`, `TransportLost`, `MoverLost`.
        """
        if is_here(repository):
            return open_repository(Path(repository.path), repository.repository_id)
        key = (repository.repository_id, repository.server)
        with self._lock:
            known = self._opened.get(key)
        if known is not None:
            try:
                check_identity(known, repository.path, repository.repository_id)
            except VbrError:  # its connection to the share may be gone: another mover makes a new one, and knows
                self.run(known.close())
            else:
                return known
        storage = self.run(self.start(repository, "open"))
        with self._lock:
            self._opened[key] = storage
        return storage

    async def start(self, repository: Repository, purpose: Purpose) -> RemoteStorage:
        """Have a mover of its own open a repository's place; whoever asked closes it, or forgets it with us."""
        if not repository.server:
            raise ProtocolError(f"no gateway was chosen for {repository.path}")
        handle = await self._start(repository.server, repository.path)
        return await RemoteStorage.open(handle, self._place(repository), repository.repository_id, purpose)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have the event loop do it, and wait."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def close(self) -> None:
        """End all movers that serve repositories."""
        with self._lock:
            opened, self._opened = tuple(self._opened.values()), {}
        for storage in opened:
            await storage.close()


def is_here(repository: Repository) -> bool:
    """Whether it is a directory of this machine."""
    return not repository.is_share and repository.server == LOCAL_SERVER
