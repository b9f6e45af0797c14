"""Starting a transport on a managed server: find its Python, see to the bundle, become the transport. One channel."""

import asyncio
import json
import shlex
from pathlib import Path
from typing import Any, Final

import msgspec

from vbrcore.model.errors import ProtocolError, ServerUnreachable, ServerUnsuitable, TransportLost
from vbrcore.transport import boot
from vbrcore.transport.bundle import Bundle, Bundles, platform_of
from vbrcore.transport.ssh import SshConnection, SshProgram
from vbrcore.transport.wheels import MINORS

ANSWER_S = 60.0
_CHUNK_BYTES: Final = 256 * 1024
_CHUNK_S: Final = 60.0  # what a link that is alive may take for a chunk
_MAX_NOISE_LINES: Final = 1000


def boot_command() -> str:
    """Return the constant text that a login shell is given: the first suitable Python becomes `boot`."""
    names = " ".join(["python3", *(f"python3.{minor}" for minor in reversed(MINORS))])
    wanted = "|".join(f'"cpython 3 {minor}"' for minor in MINORS)
    text = Path(boot.__file__).read_text(encoding="utf-8")
    script = (
        f"for p in {names}; do"
        ' v=$("$p" -I -S -c "import sys; print(sys.implementation.name, *sys.version_info[:2])" 2>/dev/null) ||'
        f' continue; case $v in {wanted}) exec "$p" -I -S -c {shlex.quote(text)};; esac; seen="$seen $p: $v;";'
        ' done; echo "found:${seen:- none}" >&2; exit 127'
    )
    return f"exec /bin/sh -c {shlex.quote(script)}"


async def start_remote(connection: SshConnection, bundles: Bundles, words: tuple[str, ...]) -> tuple[SshProgram, bool]:
    """Start a transport with these words on its command line; return it, and whether the bundle had to be sent.

    Raises `ServerUnsuitable`, `WheelsMissing`, `ServerUnreachable`, `ProtocolError`.
    """
    program = await connection.start(boot_command())
    try:
        facts = await _said(connection, program)
        bundle = await asyncio.to_thread(bundles.bundle_for, platform_of(facts, connection.where))
        order = {
            "digest": bundle.digest,
            "archive_sha256": bundle.archive_sha256,
            "archive_bytes": bundle.archive_bytes,
            "words": words,
        }
        program.write(json.dumps(order).encode() + b"\n")
        have = (await _said(connection, program)).get("have")
        if not have:
            await _send(connection, program, bundle)
            if not (await _said(connection, program)).get("have"):
                raise ProtocolError(f"{connection.where} asked twice for its bundle")
    except BaseException:
        program.abort()
        raise
    return program, not have


async def _said(connection: SshConnection, program: SshProgram) -> dict[str, Any]:
    """Return the next thing that `boot` says; what a login shell prints before it is passed over."""
    try:
        async with asyncio.timeout(ANSWER_S):
            for _ in range(_MAX_NOISE_LINES):
                line = await program.readline()
                if not line:
                    break
                _, mark, text = line.decode("utf-8", "replace").partition(boot.MARK)
                if mark:
                    return _checked(connection, text)
            else:
                raise ProtocolError(f"{connection.where}: its login shell prints too much before a command")
            code = await program.ended(ANSWER_S)
    except TimeoutError as error:
        raise ServerUnreachable(f"{connection.where}: no answer within {ANSWER_S:g} s") from error
    if code == 127:
        raise ServerUnsuitable(f"{connection.where} has no CPython 3.11 to 3.13 on its PATH: {program.stderr_tail}")
    if connection.gone:
        raise ServerUnreachable(f"{connection.where}: the connection is gone")
    raise TransportLost(f"{connection.where}: the transport did not start: {program.stderr_tail or f'code {code}'}")


def _checked(connection: SshConnection, text: str) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(text.encode(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ProtocolError(f"{connection.where} said what cannot be understood: {error}") from error
    if "error" in said:
        raise ServerUnsuitable(f"{connection.where}: the bundle cannot be kept there: {said['error']}")
    return said


async def _send(connection: SshConnection, program: SshProgram, bundle: Bundle) -> None:
    data = memoryview(await asyncio.to_thread(Path(bundle.path).read_bytes))
    try:
        while data:
            program.write(bytes(data[:_CHUNK_BYTES]))
            data = data[_CHUNK_BYTES:]
            async with asyncio.timeout(_CHUNK_S):
                await program.drain()
    except (TimeoutError, ConnectionError) as error:
        raise ServerUnreachable(f"{connection.where}: the connection broke while the bundle was sent") from error
