"""The keys of a repository's chains: opened from their key slots, made for new chains, given to who needs them."""

import asyncio
from typing import TYPE_CHECKING

from vbrcore.backupfile.contents import KeySlot
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.identity import ChainIdentity
from vbrcore.model.errors import ChainDiffers, DataCorrupt, KeyNeeded, NotEncrypted, WrongPassphrase
from vbrcore.model.point import Point
from vbrcore.mover.messages import ChainSecret

if TYPE_CHECKING:
    from vbrcore.backupfile.encryption import ChainKey

# cryptography is imported where a chain is encrypted, and a manager without any does without it.


class OpenChain:
    """A chain whose key is here, or (without key) one that is not encrypted."""

    def __init__(self, chain_id: bytes = b"", key: "ChainKey | None" = None) -> None:
        self.chain_id = chain_id
        self.key = key

    @property
    def secret(self) -> ChainSecret | None:
        """What a source mover is given."""
        return None if self.key is None else ChainSecret(self.chain_id, self.key.reveal())

    def sealed(self, point: Point) -> Point:
        """Return the point as it stands in the chain's files."""
        if self.key is None:
            return point
        from vbrcore.backupfile.sealedpoints import seal_point  # noqa: PLC0415

        return seal_point(point, self.key, self.chain_id)

    def opened(self, point: Point) -> Point:
        """Return the point with its names. Raises `DataCorrupt` where it is not as this key left it."""
        if self.key is None:
            return point
        from vbrcore.backupfile.sealedpoints import open_point  # noqa: PLC0415

        return open_point(point, self.key, self.chain_id)

    def all_opened(self, points: tuple[Point, ...]) -> tuple[list[Point], tuple[str, ...]]:
        """Return the points that are as this key left them, and what is wrong with the others."""
        good: list[Point] = []
        wrong: list[str] = []
        for point in points:
            try:
                good.append(self.opened(point))
            except DataCorrupt as error:
                wrong.append(str(error))
        return good, tuple(wrong)


class RepositoryKeys:
    """Opens the chains of one repository; each once, because trying a passphrase takes 0.1 s and 64 MiB."""

    def __init__(self, catalog: Catalog, repository_id: str) -> None:
        self.encrypted = catalog.is_encrypted(repository_id)
        self._catalog = catalog
        self._repository_id = repository_id
        self._opened: dict[bytes, ChainKey] = {}
        self._opening = asyncio.Lock()

    async def chain(self, identity: ChainIdentity) -> OpenChain:
        """Open a chain that has files. Raises `KeyNeeded`, `WrongPassphrase`, `NotEncrypted`."""
        if not identity.encrypted:
            if self.encrypted:
                raise NotEncrypted("the chain is not encrypted, but its repository is")
            return OpenChain()
        return OpenChain(identity.chain_id, await self._key(identity.chain_id, identity.key_slots))

    async def new_chain(
        self, chain_id: bytes, chain_key: "ChainKey | None" = None
    ) -> tuple[OpenChain, tuple[KeySlot, ...]]:
        """Make the key of an encrypted chain that begins, if it is not given; return it, and what wraps it."""
        from vbrcore.backupfile.encryption import ChainKey  # noqa: PLC0415

        # A change that goes on may have passed this chain's place: it is made with what will open all of them.
        key = self._catalog.next_repository_key(self._repository_id) or self._catalog.repository_key(
            self._repository_id
        )
        if key is None:
            raise KeyNeeded("the repository's passphrase is not known here")
        chain_key = chain_key or ChainKey.random()
        return OpenChain(chain_id, chain_key), await asyncio.to_thread(key.wrap, chain_key, chain_id)

    async def secret(self, chain_id: bytes, key_slots: tuple[KeySlot, ...]) -> ChainSecret:
        """Return what a restore mover is given. Raises as `chain`."""
        return ChainSecret(chain_id, (await self._key(chain_id, key_slots)).reveal())

    async def _key(self, chain_id: bytes, key_slots: tuple[KeySlot, ...]) -> "ChainKey":
        async with self._opening:
            if chain_id not in self._opened:
                self._opened[chain_id] = await asyncio.to_thread(self._open, chain_id, key_slots)
            return self._opened[chain_id]

    def _open(self, chain_id: bytes, key_slots: tuple[KeySlot, ...]) -> "ChainKey":
        """Try what the repository is locked with, and while that is being changed also what it will be."""
        current = self._catalog.repository_key(self._repository_id)
        if current is None:
            raise KeyNeeded("the chain is encrypted, and its repository's passphrase is not known here")
        following = self._catalog.next_repository_key(self._repository_id)
        try:
            return current.open(key_slots, chain_id)
        except WrongPassphrase:
            if following is None:
                raise
            return following.open(key_slots, chain_id)


class CopyKeys(RepositoryKeys):
    """Of a repository in which a copy of one chain lies or will lie: with the key that it has where it comes from."""

    def __init__(self, catalog: Catalog, repository_id: str, source: OpenChain) -> None:
        super().__init__(catalog, repository_id)
        self._source = source

    async def new_chain(
        self, chain_id: bytes, chain_key: "ChainKey | None" = None
    ) -> tuple[OpenChain, tuple[KeySlot, ...]]:
        return await super().new_chain(chain_id, chain_key or self._source.key)

    async def chain(self, identity: ChainIdentity) -> OpenChain:
        """As of any chain; raises `ChainDiffers` as well: blocks sealed with another key could never be opened."""
        chain = await super().chain(identity)
        if chain.key != self._source.key:
            raise ChainDiffers("the copy has another key than the chain that it is made of")
        return chain
