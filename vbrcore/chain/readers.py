"""Files of a chain open for reading, each opened once."""

import threading

from vbrcore.model.errors import StorageFailed
from vbrcore.storage.port import Reader, Storage


class Readers:
    """Opens files by name when first asked for. Thread-safe; close only when nobody reads any more."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._open: dict[str, Reader] = {}
        self._closed = False

    def get(self, name: str) -> Reader:
        with self._lock:
            if self._closed:
                raise StorageFailed(f"{name}: asked for after the end")
            reader = self._open.get(name)
            if reader is None:
                reader = self._open[name] = self._storage.open_reader(name)
            return reader

    def drop(self, name: str) -> None:
        """The file has this name no more. Nobody is reading it."""
        with self._lock:
            reader = self._open.pop(name, None)
        if reader is not None:
            reader.close()

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closed = True
            for reader in self._open.values():
                reader.close()
            self._open.clear()
