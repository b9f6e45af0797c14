"""Has plugins look at hypervisors, each in a short process of its own: no plugin connects from the service."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable

import msgspec

from vbrcore.api.home import Home
from vbrcore.manager.look import LOOK_S
from vbrcore.model.errors import HypervisorFailed, HypervisorUnreachable, VbrError
from vbrcore.model.inventory import Hypervisor
from vbrcore.model.serverfacts import Finding, finding_of

_AT_ONCE = 4  # processes
_TAIL_CHARACTERS = 300


async def look_at_hypervisors(home: Home, hypervisors: Iterable[Hypervisor]) -> dict[str, tuple[Finding, ...]]:
    """Return what is found of each, by id. Whatever goes wrong is found, too, and nothing is raised."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(hypervisor: Hypervisor) -> tuple[str, tuple[Finding, ...]]:
        async with gate:
            try:
                return hypervisor.hypervisor_id, await _look(home, hypervisor)
            except VbrError as error:
                return hypervisor.hypervisor_id, (finding_of(error),)

    return dict(await asyncio.gather(*(one(hypervisor) for hypervisor in hypervisors)))


async def _look(home: Home, hypervisor: Hypervisor) -> tuple[Finding, ...]:
    arguments = ["hypervisor-check", "--home", os.fspath(home.path), "--hypervisor-id", hypervisor.hypervisor_id]
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vbrcore",
            *arguments,
            stdin=nothing,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
    except OSError as error:
        raise HypervisorFailed(f"the process that looks could not be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(LOOK_S):
            output, words = await process.communicate()
    except TimeoutError as error:
        raise HypervisorUnreachable(f"it was looked at for {LOOK_S} s without an end") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    try:
        return msgspec.json.decode(output, type=tuple[Finding, ...])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        tail = words.decode(errors="replace").strip()[-_TAIL_CHARACTERS:]
        raise HypervisorFailed(
            f"the process that looks ended with {process.returncode}: {tail or 'it said nothing'}"
        ) from error
