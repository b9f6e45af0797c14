"""A TLS 1.3 connection between two movers, each of which accepts exactly one certificate: the other's.

The record layer works on memory (`ssl.SSLObject`), because one thread receives while others send, and an OpenSSL
connection must not be used by two threads at once: the lock is held for the cipher only, never while the network is
waited for. It also lets many records of 16 KiB travel in one system call.
"""

import contextlib
import os
import socket
import ssl
import threading
import time
from hashlib import sha256
from hmac import compare_digest
from typing import Final, cast

from vbrcore.model.errors import PeerRefused
from vbrcore.mover.messages import Proof
from vbrcore.mover.tcp import SILENCE_S, Lifeline

HANDSHAKE_S: Final = 10.0
_HANDSHAKE_BYTES: Final = 64 * 1024  # more than two certificates of ours need
_RECORD_BYTES: Final = 16 * 1024
_BATCH_BYTES: Final = 256 * 1024  # encrypted, and then handed to the kernel at once


class TlsConnection:
    """The part of a `socket.socket` that a `DataStream` uses. One thread receives, one at a time sends."""

    def __init__(
        self, connection: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._socket = connection
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()  # guards the three above
        self._received = bytearray(_BATCH_BYTES)
        self._cut = False
        self._lifeline = Lifeline(connection, self._on_cut, SILENCE_S)

    def sendmsg(self, parts: tuple[bytes | bytearray | memoryview, ...]) -> int:
        """Send all of all parts; return their bytes. Raises OSError when the peer is gone."""
        total = 0
        for part in parts:
            view = memoryview(part)
            total += len(view)
            for start in range(0, len(view), _BATCH_BYTES):
                self._send(self._encrypted(view[start : start + _BATCH_BYTES]))
        return total

    def send(self, data: memoryview) -> int:
        """Send all of it."""
        return self.sendmsg((data,))

    def sendall(self, data: bytes | bytearray) -> None:
        self.sendmsg((data,))

    def recv_into(self, buffer: memoryview, _length: int = 0, _flags: int = 0) -> int:
        """Fill the buffer; less only where the peer ended the connection."""
        filled = 0
        while filled < len(buffer):
            filled += self._decrypted(buffer[filled:])
            if filled < len(buffer) and not self._take_in():
                break
        return filled

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._lifeline.end()
        self._socket.close()

    def _on_cut(self) -> None:
        self._cut = True

    def _check(self) -> None:
        if self._cut:
            raise TimeoutError(f"the network between the movers is cut: nothing was acknowledged for {SILENCE_S:.0f} s")

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            self._check()
            raise

    def _encrypted(self, view: memoryview) -> bytes:
        with self._lock:
            done = 0
            while done < len(view):
                done += self._tls.write(view[done : done + _RECORD_BYTES])
            return self._outgoing.read()

    def _decrypted(self, buffer: memoryview) -> int:
        """Decrypt what has arrived, as far as there is room; return the bytes."""
        done = 0
        with self._lock, contextlib.suppress(ssl.SSLWantReadError):
            while done < len(buffer):
                count = cast(int, self._tls.read(len(buffer) - done, cast(bytearray, buffer[done:])))
                if not count:
                    break
                done += count
        return done

    def _take_in(self) -> bool:
        """Wait for bytes of the network; False where there will be none any more."""
        count = self._socket.recv_into(self._received)
        if not count:
            self._check()
        with self._lock:
            if count:
                self._incoming.write(memoryview(self._received)[:count])
        return count > 0


def opened(connection: socket.socket, proof: Proof, *, server: bool) -> TlsConnection:
    """Shake hands. Returns when the peer has proved that it is the expected one, and nothing was said to it before.

    Raises `PeerRefused`, also for one that takes longer than `HANDSHAKE_S`. The socket stays the caller's.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context(proof, server=server).wrap_bio(incoming, outgoing, server_side=server)
    try:
        _shake(connection, tls, incoming, outgoing)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):  # the alert that says why, where there is still somebody
            connection.sendall(outgoing.read())
        raise PeerRefused(f"no connection with the other mover: {_words(error)}") from error
    certificate = tls.getpeercert(binary_form=True) or b""
    expected = ssl.PEM_cert_to_DER_cert(proof.peer_certificate.decode())
    same = compare_digest(sha256(certificate).digest(), sha256(expected).digest())
    if not same or tls.version() != "TLSv1.3":
        raise PeerRefused("the other side of the connection is not the other mover")
    connection.settimeout(None)
    return TlsConnection(connection, tls, incoming, outgoing)


def _shake(connection: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    """Both sides' handshake messages, within a bounded time and a bounded number of bytes."""
    deadline, taken, done = time.monotonic() + HANDSHAKE_S, 0, False
    while not done:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        connection.sendall(outgoing.read())
        if done:
            return
        if time.monotonic() >= deadline:
            raise TimeoutError("it took too long to prove who it is")
        received = connection.recv(_RECORD_BYTES)
        taken += len(received)
        if not received or taken > _HANDSHAKE_BYTES:
            raise ConnectionError("it ended the connection" if not received else "it said too much")
        incoming.write(received)


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS as expected ({error.reason or error})"
    return str(error) or type(error).__name__


def _context(proof: Proof, *, server: bool) -> ssl.SSLContext:
    """A context whose only trust anchor is the peer's own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is compared, which says more than a name
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        context.num_tickets = 0  # a connection is never resumed
    context.load_verify_locations(cadata=proof.peer_certificate.decode())
    _load_own(context, proof)
    return context


def _load_own(context: ssl.SSLContext, proof: Proof) -> None:
    """`ssl` reads certificates and keys from files only: give it one that is in memory and has no name."""
    descriptor = os.memfd_create("proof", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(proof.certificate + proof.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
