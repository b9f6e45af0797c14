"""Whether a point was committed when its target mover was lost: the files say so, once nobody writes them."""

import asyncio
import time

from vbrcore.chain.listing import settled_points
from vbrcore.model.errors import ChainLocked
from vbrcore.model.inventory import Repository
from vbrcore.model.point import Point
from vbrcore.model.times import SILENCE_S
from vbrcore.transport.storages import Storages

_POLL_S = 0.5


def chain_points(storages: Storages, repository: Repository, directory: str) -> tuple[Point, ...]:
    """Read the points of a chain that nobody writes; raises `ChainLocked`, `RepositoryNotMounted`."""
    return settled_points(storages.open(repository), directory)


async def committed_point(storages: Storages, repository: Repository, directory: str, point_id: str) -> Point | None:
    """Wait for the lost writer to be gone (it ends itself after 30 s of silence), then look for the point.

    Raises `ChainLocked` where the writer is still there after that: then nobody knows yet.
    """
    deadline = time.monotonic() + SILENCE_S + 5
    while True:
        try:
            points = await asyncio.to_thread(chain_points, storages, repository, directory)
        except ChainLocked:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return next((point for point in points if point.point_id == point_id), None)
