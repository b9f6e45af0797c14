"""The one target mover of a session's chain. A lost one is replaced when the next attempt needs it."""

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vbrcore.backupfile.contents import KeySlot
from vbrcore.chain.givenback import GivenBack
from vbrcore.manager.crew import Crew
from vbrcore.manager.keys import OpenChain, RepositoryKeys
from vbrcore.manager.log import SessionLog
from vbrcore.manager.routes import endpoints, resolved
from vbrcore.model.errors import MoverLost, ProtocolError, TransportLost, VbrError, error_from
from vbrcore.model.point import Point
from vbrcore.model.routes import Route
from vbrcore.mover.messages import (
    ChainPoints,
    CommitPoint,
    Compact,
    Ended,
    Endpoint,
    ExpectTask,
    Failed,
    ForgetPoints,
    Forgotten,
    FromMover,
    FullMade,
    GiveBack,
    KeySlotsWritten,
    Listening,
    Log,
    MakeFull,
    PointCommitted,
    PointRefused,
    Progress,
    Ready,
    Seal,
    TargetWork,
    ToMover,
    UpkeepDone,
    UseKeySlots,
    VoidTask,
)
from vbrcore.transport.client import MoverHandle

Answer = TypeVar("Answer", Forgotten, KeySlotsWritten, UpkeepDone, FullMade)

_SECRET_BYTES = 32


class TargetRun:
    """One target mover process from `Ready` to its end. Points are given to it, and come from it, as they are read.

    `warnings`: what is wrong with the chain.
    """

    def __init__(
        self, handle: MoverHandle, ready: Ready, points: tuple[Point, ...], log: SessionLog, chain: OpenChain
    ) -> None:
        self.ready = ready
        self.chain = chain
        self.points, spoilt = chain.all_opened(points)
        self.base_point_ids = set(ready.base_point_ids)
        self.warnings = (*ready.warnings, *spoilt)
        self.lost: VbrError | None = None
        self.gone = asyncio.Event()  # set with `lost`
        self.stored_bytes = 0
        self.progress: Progress | None = None
        self._handle = handle
        self._log = log
        self._commits: dict[str, asyncio.Future[Point]] = {}
        self._listening: dict[tuple[str, int], asyncio.Future[int]] = {}
        self._to_dial: dict[str, ExpectTask] = {}
        self._answers: dict[type[FromMover], asyncio.Future[FromMover]] = {}
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._listener = asyncio.create_task(self._listen(), name="target-listener")

    async def expect(self, task_id: str, attempt: int, route: Route) -> Endpoint:
        """Make the target accept one source for this attempt, and no earlier one; return what the source is told.

        Where the source listens, `dial` follows when it does. Raises `NoFreePort`, `NoDataAddress`.
        """
        self._check()
        secret = secrets.token_bytes(_SECRET_BYTES)
        if route.way == "socket":
            endpoint = Endpoint(self.ready.path, secret)
            await self._handle.send(ExpectTask(task_id, attempt, endpoint))
            return endpoint
        route = await resolved(route)
        for_source, for_target = endpoints(route, secret)
        if route.way == "source_listens":
            self._to_dial[task_id] = ExpectTask(task_id, attempt, for_target)
            return for_source
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._listening[task_id, attempt] = listening
        await self._handle.send(ExpectTask(task_id, attempt, for_target))
        port = await listening
        return msgspec.structs.replace(for_source, ports=(port, port))

    async def dial(self, task_id: str, port: int) -> None:
        """Have the target dial the source of this task, which listens now."""
        self._check()
        task = self._to_dial.pop(task_id, None)
        if task is None:
            raise ProtocolError(f"the source of task {task_id} listens, but was not told to")
        endpoint = msgspec.structs.replace(task.endpoint, ports=(port, port))
        await self._handle.send(msgspec.structs.replace(task, endpoint=endpoint))

    async def void(self, task_id: str) -> None:
        """Have the target expect nobody for this task any more; a target that is gone expects nobody."""
        self._to_dial.pop(task_id, None)
        if self.lost is None and not self._ended.done():
            with contextlib.suppress(MoverLost, TransportLost):
                await self._handle.send(VoidTask(task_id))

    async def commit(self, point: Point) -> Point:
        """Commit a point; return it with its sequence and kind. Raises `BlocksMissing`, `MoverLost` and others."""
        self._check()
        future: asyncio.Future[Point] = asyncio.get_running_loop().create_future()
        self._commits[point.point_id] = future
        await self._handle.send(CommitPoint(point=self.chain.sealed(point)))
        return await future

    async def forget(self, point_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Have points forgotten, which also leave `points`; return those that are: not what somebody has pinned."""
        forgotten = (await self._ask(ForgetPoints(point_ids=point_ids), Forgotten)).point_ids
        self.points = [point for point in self.points if point.point_id not in forgotten]
        return forgotten

    async def use_key_slots(self, key_slots: tuple[KeySlot, ...]) -> int:
        """Have all files of an encrypted chain name these key slots; return how many lists were written."""
        return (await self._ask(UseKeySlots(key_slots=key_slots), KeySlotsWritten)).lists

    async def give_back(self, *, force: bool) -> GivenBack | None:
        """Have space given back; None: little can be dead. No source may be sending."""
        return (await self._ask(GiveBack(force=force), UpkeepDone)).done

    async def compact(self, *, rewrite: bool) -> GivenBack | None:
        """Have what lives moved into as few files as it needs."""
        return (await self._ask(Compact(rewrite=rewrite), UpkeepDone)).done

    async def make_full(self) -> GivenBack:
        """Have a synthetic full made; raises why it cannot be, and then the chain is as it was."""
        made = await self._ask(MakeFull(), FullMade)
        if made.error is not None:
            raise error_from(made.error)
        # These points are full now, and the only ones of the current generation.
        self.base_point_ids = set(made.point_ids)
        self.points = [
            msgspec.structs.replace(point, kind="full") if point.point_id in self.base_point_ids else point
            for point in self.points
        ]
        return made.done or GivenBack()

    async def _ask(self, order: ToMover, kind: type[Answer]) -> Answer:
        """Send an order and return its answer, of which there is one at a time of each kind."""
        self._check()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[kind] = future
        await self._handle.send(order)
        answer: Answer = await future
        return answer

    async def seal(self) -> int:
        """Seal the file; return the bytes that this mover appended."""
        self._check()
        await self._handle.send(Seal())
        stored = await asyncio.shield(self._ended)
        await self._listener
        return stored

    async def kill(self) -> None:
        await self._handle.kill()
        await self._listener

    def _check(self) -> None:
        if self.lost is not None:
            raise self.lost

    async def _listen(self) -> None:
        try:
            while not self._ended.done():
                self._dispatch(await self._handle.receive())
        except VbrError as error:
            self._fail(error)

    def _dispatch(self, message: FromMover) -> None:
        match message:
            case PointCommitted(point=point, stored_bytes=stored_bytes):
                self.stored_bytes = stored_bytes
                point = self.chain.opened(point)
                self.points.append(point)
                self.base_point_ids.add(point.point_id)
                _resolve(self._commits.pop(point.point_id, None), point)
            case PointRefused(point_id=point_id, error=error):
                _refuse(self._commits.pop(point_id, None), error_from(error))
            case Forgotten() | KeySlotsWritten() | UpkeepDone() | FullMade():
                _resolve(self._answers.pop(type(message), None), message)
            case Listening(task_id=task_id, attempt=attempt, port=port, error=error):
                waiting = self._listening.pop((task_id, attempt), None)
                if error is None:
                    _resolve(waiting, port)
                else:
                    _refuse(waiting, error_from(error))
            case Progress():
                self.progress = message
            case Log(time=at, level=level, message=text):
                self._log.write(level, text, **self._handle.said(at))
            case Ended(stored_bytes=stored_bytes):
                self.stored_bytes = stored_bytes
                self._ended.set_result(stored_bytes)
            case Failed(error=error):
                self._fail(error_from(error))
            case _:
                self._fail(ProtocolError(f"target mover said {type(message).__name__} out of turn"))

    def _fail(self, error: VbrError) -> None:
        if self.lost is None:
            self.lost = error
            self.gone.set()
            self._log.error(f"target mover: {error}")
        for commit in self._commits.values():
            _refuse(commit, self.lost)
        self._commits.clear()
        for answer in self._answers.values():
            _refuse(answer, self.lost)
        self._answers.clear()
        for listening in self._listening.values():
            _refuse(listening, self.lost)
        self._listening.clear()
        _refuse(self._ended, self.lost)


T = TypeVar("T")


def _resolve(future: "asyncio.Future[T] | None", value: T) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _refuse(future: "asyncio.Future[T] | None", error: VbrError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
        future.exception()  # marks it as seen: nobody may be waiting for it


def work_at(handle: MoverHandle, work: TargetWork) -> TargetWork:
    """Return the work with its index cache where the mover is."""
    if not handle.cache_directory:
        return work
    return msgspec.structs.replace(
        work, index_directory=str(Path(handle.cache_directory) / "index" / work.repository_id)
    )


class Target:
    """Gives the living `TargetRun`, starting a new mover where there is none."""

    def __init__(self, crew: Crew, work: TargetWork, log: SessionLog, keys: RepositoryKeys, *, server: str) -> None:
        self._crew = crew
        self._server = server
        # A target learns no names of an encrypted repository.
        self._work = msgspec.structs.replace(work, encrypt=True, job_name="") if keys.encrypted else work
        self._keys = keys
        self._log = log
        self._run: TargetRun | None = None
        self._starting = asyncio.Lock()
        self._stored_before_bytes = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes appended to backup files by all target movers of this session, as far as they were told."""
        return self._stored_before_bytes + (self._run.stored_bytes if self._run is not None else 0)

    @property
    def running(self) -> TargetRun | None:
        return self._run

    async def ready(self) -> TargetRun:
        """Return the living target mover; raises `ChainLocked` and what else keeps one from starting.

        Where the chain is encrypted it is open then: raises `KeyNeeded`, `WrongPassphrase`, `NotEncrypted`.
        """
        async with self._starting:
            if self._run is not None and self._run.lost is not None:
                self._stored_before_bytes += self._run.stored_bytes
                await self._run.kill()
                self._run = None
            if self._run is None:
                self._run = await self._start()
            return self._run

    async def _start(self) -> TargetRun:
        handle = await self._crew.start("target", task_id="", disk="", server=self._server)
        try:
            await handle.send(work_at(handle, self._work))
            points: list[Point] = []
            ready = await self._expect(handle, Ready, points)
            if ready.chain.encrypted and ready.chain.is_new:
                chain, key_slots = await self._keys.new_chain(ready.chain.chain_id)
                await handle.send(UseKeySlots(key_slots))
                await self._expect(handle, KeySlotsWritten, points)
            else:
                chain = await self._keys.chain(ready.chain)
        except BaseException:
            await handle.kill()
            raise
        return TargetRun(handle, ready, tuple(points), self._log, chain)

    async def _expect(self, handle: MoverHandle, kind: type[T], points: list[Point]) -> T:
        """Return the next message, which is of this kind; log lines before it are written, points are added."""
        while True:
            match await handle.receive():
                case kind() as message:
                    return message
                case Failed(error=error):
                    raise error_from(error)
                case ChainPoints(points=some):
                    points += some
                case Log(time=at, level=level, message=text):
                    self._log.write(level, text, **handle.said(at))
                case Progress():  # it is ready, and waits a while for the key slots
                    continue
                case other:
                    raise ProtocolError(f"target mover said {type(other).__name__} before it was ready")

    async def seal(self) -> None:
        """Seal what the living mover wrote; a lost one's file counts as sealed at its newest slot."""
        if self._run is not None and self._run.lost is None:
            await self._run.seal()

    async def kill(self) -> None:
        if self._run is not None:
            await self._run.kill()
