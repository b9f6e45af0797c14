"""One connection to an SMB share, and the few requests that a storage is made of.

SMB 3 only, every message encrypted (signed where the server cannot encrypt), no guest and no anonymous login. All
waiting is bounded: a server that says nothing for twice `QUIET_S`, or does not answer a request in `ANSWER_S`, is lost.
A lost connection is never made again: with it went the locks and open files, and what was asked of it last may have
happened or not.
"""

import contextlib
import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final

from smbprotocol import Dialects
from smbprotocol.connection import Connection
from smbprotocol.exceptions import (
    AccessDenied,
    BadNetworkName,
    SMBAuthenticationError,
    SMBException,
    SMBResponseException,
)
from smbprotocol.file_info import FileAttributes
from smbprotocol.header import Commands, NtStatus, Smb2Flags
from smbprotocol.ioctl import IOCTLFlags, SMB2IOCTLRequest
from smbprotocol.open import (
    ImpersonationLevel,
    Open,
    SMB2QueryInfoRequest,
    SMB2QueryInfoResponse,
    SMB2SetInfoRequest,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from vbrcore.model.errors import (
    AlreadyExists,
    CapabilityMissing,
    NotFound,
    PermissionRefused,
    RepositoryFull,
    RepositoryReadOnly,
    ShareRefused,
    ShareUnreachable,
    StorageFailed,
    VbrError,
)
from vbrcore.model.place import PASSWORD, Place

CONNECT_S: Final = 10
QUIET_S: Final = 15
ANSWER_S: Final = 120
# A credit pays for 64 KiB of a request. With these 16 MiB can be under way.
_CREDITS: Final = 256
# The library copies a message several times: what fits the processor's cache costs half as much (bench/smb.py).
_READ_BYTES: Final = 512 * 1024
_WRITE_BYTES: Final = 256 * 1024
_CREDIT_PAUSE_S: Final = 0.001
_QUERY_BYTES: Final = 4096
_DISK_QUOTA_EXCEEDED: Final = 0xC0000044
_MEDIA_WRITE_PROTECTED: Final = 0xC00000A2
_ABSENT: Final = frozenset(
    {
        NtStatus.STATUS_OBJECT_NAME_NOT_FOUND,
        NtStatus.STATUS_OBJECT_PATH_NOT_FOUND,
        NtStatus.STATUS_NO_SUCH_FILE,
        NtStatus.STATUS_NOT_FOUND,
        NtStatus.STATUS_NOT_A_DIRECTORY,
        NtStatus.STATUS_DELETE_PENDING,
    }
)
UNABLE: Final = frozenset(
    {
        NtStatus.STATUS_NOT_SUPPORTED,
        NtStatus.STATUS_INVALID_DEVICE_REQUEST,
        NtStatus.STATUS_INVALID_PARAMETER,
        0xC0000002,  # STATUS_NOT_IMPLEMENTED
    }
)
_ERRORS: Final[dict[int, type[VbrError]]] = {
    **dict.fromkeys(_ABSENT, NotFound),
    NtStatus.STATUS_OBJECT_NAME_COLLISION: AlreadyExists,
    NtStatus.STATUS_DISK_FULL: RepositoryFull,
    _DISK_QUOTA_EXCEEDED: RepositoryFull,
    _MEDIA_WRITE_PROTECTED: RepositoryReadOnly,
    NtStatus.STATUS_ACCESS_DENIED: PermissionRefused,
}

# What the library has to say is said by our errors; its log lines would end up on the stream of errors.
logging.getLogger("smbprotocol").addHandler(logging.NullHandler())
logging.getLogger("smbprotocol").propagate = False
logging.getLogger("spnego").addHandler(logging.NullHandler())
logging.getLogger("spnego").propagate = False


def status_name(status: int) -> str:
    names = (name for name, value in vars(NtStatus).items() if value == status)
    return next(names, f"status {status:#010x}").removeprefix("STATUS_").replace("_", " ").lower()


class _Strict(Connection):  # type: ignore[misc]
    """The library's connection, with bounds: of time, of what goes out at once, and of what is believed.

    The library takes a message that is neither signed nor encrypted; here none is taken once there is a key for it.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(uuid.uuid4(), host, port, require_signing=True)
        self._receive_timeout = QUIET_S
        self._sending = threading.Lock()

    def verify_signature(self, header: Any, session_id: int, force: bool = False) -> None:
        """Called for each message that came in clear."""
        session = self.session_table.get(session_id)
        command = header["command"].get_value()
        if session is not None and command not in {Commands.SMB2_SESSION_SETUP, Commands.SMB2_NEGOTIATE}:
            pending = header["status"].get_value() == NtStatus.STATUS_PENDING
            if session.encrypt_data:
                raise SMBException("a message was not encrypted")
            if not pending and not header["flags"].has_flag(Smb2Flags.SMB2_FLAGS_SIGNED):
                raise SMBException("a message was not signed")
        super().verify_signature(header, session_id, force)

    def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the credits that a message costs, rather than fail; one at a time, so that its turn stays."""
        if self._t_worker is not None and threading.get_ident() == self._t_worker.ident:
            return super().send(message, *args, **kwargs)  # its question whether anybody is there costs one credit
        deadline = time.monotonic() + ANSWER_S
        with self._sending:
            while self._calculate_credit_charge(message) > self.credits:
                self._check_worker_running()
                if time.monotonic() > deadline:
                    raise SMBException("the server grants nothing more to be sent")
                time.sleep(_CREDIT_PAUSE_S)
            return super().send(message, *args, **kwargs)

    def receive(self, request: Any, wait: bool = True, timeout: float | None = None, **_: Any) -> Any:
        """No link is followed, and no answer waited for without end."""
        return super().receive(request, wait=wait, timeout=timeout or ANSWER_S, resolve_symlinks=False)

    @property
    def credits(self) -> int:
        return int(self.sequence_window["high"] - self.sequence_window["low"])


class Wire:
    """A connection, logged in and at its share. Raises `ShareUnreachable`, `ShareRefused`.

    Methods raise the errors of the storage port; may be called from several threads.
    """

    def __init__(self, place: Place) -> None:
        if place.share is None:
            raise ValueError("not a share")
        self.share = place.share
        self._connection = _Strict(place.share.host, place.share.port)
        self._lost = ""
        try:
            self._tree = self._log_in(place)
        except BaseException:
            self.close()
            raise
        largest = max(1, self._connection.credits // 4) * 64 * 1024
        self.read_bytes = min(self._connection.max_read_size, _READ_BYTES, largest)
        self.write_bytes = min(self._connection.max_write_size, _WRITE_BYTES, largest)

    def _log_in(self, place: Place) -> TreeConnect:
        what = str(self.share)
        connection = self._connection
        try:
            connection.connect(timeout=CONNECT_S)
            _bound(connection)
            if connection.dialect < Dialects.SMB_3_0_0:
                raise ShareRefused(f"{what}: the server speaks no SMB 3")
            session = Session(
                connection, place.username, place.secrets.get(PASSWORD, ""), require_encryption=_can_encrypt(connection)
            )
            session.connect()
            connection.echo(sid=session.session_id, timeout=CONNECT_S, credit_request=_CREDITS)
            tree = TreeConnect(session, rf"\\{self.share.host}\{self.share.share}")
            tree.connect()
        except BadNetworkName as error:
            raise ShareRefused(f"{what}: the server has no such share") from error
        except AccessDenied as error:
            raise ShareRefused(f"{what}: {place.username} may not use it") from error
        except SMBResponseException as error:
            raise ShareRefused(f"{what}: {place.username} is refused: {status_name(error.status)}") from error
        except SMBAuthenticationError as error:
            raise ShareRefused(f"{what}: {place.username} cannot log in: {error}") from error
        except (SMBException, OSError, ValueError) as error:
            text = str(error)
            if "guest" in text or "null" in text.lower():
                raise ShareRefused(f"{what}: the server takes {place.username} for a guest") from error
            if "dialect" in text.lower():
                raise ShareRefused(f"{what}: the server speaks no SMB 3: {text}") from error
            raise ShareUnreachable(f"{what}: {text or type(error).__name__}") from error
        return tree

    def open(self, path: str, *, access: int, share: int, disposition: int, options: int) -> Open:
        """Open or make what lies at `path`, relative to the share ('/'-joined); never through a link."""
        handle = Open(self._tree, path.replace("/", "\\"))
        with self.errors(path):
            handle.create(
                ImpersonationLevel.Impersonation,
                access,
                FileAttributes.FILE_ATTRIBUTE_NORMAL,
                share,
                disposition,
                options,
            )
        return handle

    def send(self, message: Any) -> Any:
        """Send one message; `receive` returns what came of it."""
        session = self._tree.session
        return self._connection.send(message, session.session_id, self._tree.tree_connect_id)

    def query(self, handle: Open, info: Any) -> Any:
        """Return the information of the type of `info` (a structure of the library)."""
        request = SMB2QueryInfoRequest()
        request["info_type"] = info.INFO_TYPE
        request["file_info_class"] = info.INFO_CLASS
        request["output_buffer_length"] = _QUERY_BYTES
        request["file_id"] = handle.file_id
        with self.errors(handle.file_name):
            response = self._connection.receive(self.send(request))
            reply = SMB2QueryInfoResponse()
            reply.unpack(response["data"].get_value())
            return reply.parse_buffer(type(info))

    def change(self, handle: Open, info: Any) -> None:
        """Set the information `info`: end of file, name, or that it is to be deleted."""
        request = SMB2SetInfoRequest()
        request["info_type"] = info.INFO_TYPE
        request["file_info_class"] = info.INFO_CLASS
        request["file_id"] = handle.file_id
        request["buffer"] = info.pack()
        with self.errors(handle.file_name):
            self._connection.receive(self.send(request))

    def control(self, handle: Open, code: int, data: bytes) -> None:
        """Have the file system do something. Raises `CapabilityMissing` where it cannot."""
        request = SMB2IOCTLRequest()
        request["ctl_code"] = code
        request["file_id"] = handle.file_id
        request["flags"] = IOCTLFlags.SMB2_0_IOCTL_IS_FSCTL
        request["buffer"] = data
        with self.errors(handle.file_name, unable=True):
            self._connection.receive(self.send(request))

    def release(self, handle: Open) -> None:
        """Close a handle. One of a lost connection is gone already, and nothing hangs on how it went."""
        with contextlib.suppress(SMBException, OSError, ValueError):
            handle.close()

    @contextlib.contextmanager
    def errors(self, path: str, *, unable: bool = False) -> Iterator[None]:
        """Turn what the library raises into an error of the port that names the file."""
        what = f"{self.share}: {path}"
        if self._lost:
            raise StorageFailed(f"{what}: the connection was lost: {self._lost}")
        try:
            yield
        except SMBResponseException as error:
            if unable and error.status in UNABLE:
                raise CapabilityMissing(f"{what}: {status_name(error.status)}") from error
            raise _ERRORS.get(error.status, StorageFailed)(f"{what}: {status_name(error.status)}") from error
        except (SMBException, OSError, ValueError) as error:
            self._lost = str(error) or type(error).__name__
            self.close()
            raise StorageFailed(f"{what}: the connection was lost: {self._lost}") from error

    def close(self) -> None:
        """Cut the connection: the server gives back all that was open and locked. Idempotent."""
        self._lost = self._lost or "it was closed"
        if self._connection.transport is not None:
            with contextlib.suppress(OSError):
                self._connection.disconnect(close=False)


def _can_encrypt(connection: Connection) -> bool:
    return bool(connection.supports_encryption)


def _bound(connection: Connection) -> None:
    """Have sending end as well where nobody reads: the library would wait for ever."""
    sock: socket.socket = connection.transport._sock  # noqa: SLF001 - there is no other way to it
    sock.settimeout(2 * QUIET_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2 * QUIET_S * 1000)
