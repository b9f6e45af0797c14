"""A restore whose sink is open on another server than the repository's: the mover that has it, and how both meet."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

import msgspec

from vbrcore.manager.context import Context
from vbrcore.manager.routes import endpoints, resolved
from vbrcore.model.errors import MoverLost, ProtocolError, VbrError, error_from
from vbrcore.model.inventory import LOCAL_SERVER
from vbrcore.model.routes import data_route
from vbrcore.model.session import Task
from vbrcore.mover.messages import Ended, Endpoint, Failed, Listening, Log, Ready, SinkWork
from vbrcore.plugins.api import SinkSpec
from vbrcore.transport.client import MoverHandle

_SECRET_BYTES = 32
# What a sink says when its sender ended: the sender knows why, and is not to be killed before it has said so.
_OF_THE_SENDER = (MoverLost, ProtocolError)
_TIDY_S = 10.0  # for a sink whose sender is gone to remove what it has begun


class FarSink:
    """The sink mover of one attempt. `endpoint` is what the restore mover is told.

    `gone` is set when the sink itself has failed.
    """

    def __init__(self, context: Context, task: Task, handle: MoverHandle, work: SinkWork) -> None:
        self.endpoint = work.endpoint
        self.gone = asyncio.Event()
        self.lost: VbrError | None = None
        self._context = context
        self._task = task
        self._handle = handle
        self._work = work
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(), name="sink-listener")

    async def listen(self, for_source: Endpoint) -> None:
        """Have it open its sink and wait for the restore mover, which is told where."""
        await self._handle.send(self._work)
        port = await self._port
        self.endpoint = msgspec.structs.replace(for_source, ports=(port, port))

    async def dial(self, task_id: str, port: int) -> None:
        """The restore mover listens: have the sink opened and that one dialled."""
        if task_id != self._work.task_id:
            raise ProtocolError(f"the restore mover of task {task_id} listens, but was not told to")
        endpoint = msgspec.structs.replace(self._work.endpoint, ports=(port, port))
        await self._handle.send(msgspec.structs.replace(self._work, endpoint=endpoint))

    async def durable(self) -> None:
        """Return when the sink is whole and closed. Raises why it is not."""
        await self._ended.wait()
        if self.lost is not None:
            raise self.lost

    async def ended(self, patience_s: float) -> None:
        """Return when the mover has said its last word. Raises `TimeoutError`."""
        await asyncio.wait_for(self._ended.wait(), patience_s)

    async def close(self) -> None:
        """Let it tidy up, and then end it."""
        with contextlib.suppress(TimeoutError):
            await self.ended(_TIDY_S)
        await self._handle.kill()
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            while not self._ended.is_set():
                self._take(await self._handle.receive())
        except VbrError as error:
            self._lose(error)

    def _take(self, message: object) -> None:
        task = self._task
        match message:
            case Ready():
                pass
            case Listening(port=port) if not self._port.done():
                self._port.set_result(port)
            case Log(time=at, level=level, message=text):
                log = self._context.log
                log.write(
                    level, text, task_id=task.task_id, machine=task.machine, disk=task.disk, **self._handle.said(at)
                )
            case Failed(error=error):
                self._lose(error_from(error))
            case Ended():
                self._ended.set()
            case other:
                raise ProtocolError(f"the sink mover said {type(other).__name__} out of turn")

    def _lose(self, error: VbrError) -> None:
        self.lost = self.lost or error
        if not self._port.done():
            self._port.set_exception(self.lost)
            self._port.exception()  # marks it as seen: nobody may be waiting for it
        if not isinstance(error, _OF_THE_SENDER):
            self.gone.set()
        self._ended.set()


@contextlib.asynccontextmanager
async def far_sink(context: Context, task: Task, spec: SinkSpec, *, repository_server: str) -> AsyncIterator[FarSink]:
    """Have the sink opened on this machine, for a restore mover on the repository's server.

    What goes wrong with the sink is raised in place of what its sender makes of it. Raises `NoRoute` and others.
    """
    catalog = context.catalog
    route = await resolved(data_route(catalog.server_by_name(repository_server), catalog.server_by_name(LOCAL_SERVER)))
    await context.crew.transport(repository_server)  # this may take long, and the sink waits for its sender
    for_source, for_sink = endpoints(route, secrets.token_bytes(_SECRET_BYTES))
    handle = await context.crew.start("sink", task_id=task.task_id, disk=f"{task.machine}/{task.disk}")
    sink = FarSink(context, task, handle, SinkWork(task.task_id, spec, for_sink))
    try:
        if route.way == "target_listens":
            await sink.listen(for_source)
        else:
            sink.endpoint = for_source
        yield sink
        await sink.durable()
    except VbrError as error:
        # The sender learns of it by a broken connection, often before its reason is here.
        if isinstance(error, MoverLost) and sink.lost is None:
            with contextlib.suppress(TimeoutError):
                await sink.ended(_TIDY_S)
        cause = sink.lost if sink.lost is not None and sink.gone.is_set() else error
        raise cause from error.__cause__
    finally:
        await asyncio.shield(sink.close())
