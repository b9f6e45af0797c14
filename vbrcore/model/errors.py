"""Every error a user or a plugin can meet: a class with a code, an exit code, a hint and whether retrying helps.

The table in docs/errors.md is generated from these classes. Errors cross processes as `ErrorInfo`.
Exit codes: 0 success or warning, 1 a bug, 2 usage, 3 a session failed, 4 to 29 as below, 130 interrupted.
"""

from collections.abc import Iterator
from typing import ClassVar

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error as plain data: what crosses a process boundary and what `--json` prints."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False
    exit_code: int = 1


class VbrError(Exception):
    """Base of all expected errors. The message names the thing that is wrong; the hint says what to do."""

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = "This is a bug; the session log has the details."
    retryable: ClassVar[bool] = False

    def info(self) -> ErrorInfo:
        return ErrorInfo(self.code, str(self), self.hint, self.retryable, self.exit_code)


def all_errors(base: type[VbrError] = VbrError) -> Iterator[type[VbrError]]:
    """Yield every error class, in the order in which they are defined."""
    yield base
    for child in base.__subclasses__():
        yield from all_errors(child)


def error_from(info: ErrorInfo) -> VbrError:
    """Turn data from another process into the error it was there; an unknown code becomes a `RemoteError`."""
    for cls in all_errors():
        if cls.code == info.code:
            return cls(info.message)
    return RemoteError(f"{info.code}: {info.message}")


def info_of(error: BaseException) -> ErrorInfo:
    """Describe any exception; an unexpected one is a bug and says so."""
    if isinstance(error, VbrError):
        return error.info()
    return ErrorInfo("internal_error", f"{type(error).__name__}: {error}", VbrError.hint, retryable=False)


class RemoteError(VbrError):
    code = "remote_error"
    hint = "A process of another version reported an error that this version does not know."


# --- what was asked -------------------------------------------------------------------------------


class UsageError(VbrError):
    code = "usage"
    exit_code = 2
    hint = "See --help."


class InvalidValue(VbrError):
    code = "invalid_value"
    exit_code = 2
    hint = "The message names the value and what is allowed."


class FileUnusable(VbrError):
    code = "file_unusable"
    exit_code = 2
    hint = "Check the path that was given, and that this account may use it."


class SessionFailed(VbrError):
    code = "session_failed"
    exit_code = 3
    hint = "See 'session show' and 'session log' for the machine and the reason."


class NotFound(VbrError):
    code = "not_found"
    exit_code = 4
    hint = "The matching 'list' command shows what there is."


class AlreadyExists(VbrError):
    code = "already_exists"
    exit_code = 5
    hint = "Choose another name, or remove the existing one first."


class InUse(VbrError):
    code = "in_use"
    exit_code = 5
    hint = "Remove what uses it first."


class JobAlreadyRunning(VbrError):
    code = "job_already_running"
    exit_code = 5
    hint = "Wait for its session, or stop it with 'job stop'."
    retryable = True


class ConfirmationNeeded(VbrError):
    code = "confirmation_needed"
    exit_code = 2
    hint = "Type the name to confirm, or give it with --confirm NAME."


class CanNeverRun(VbrError):
    code = "can_never_run"
    exit_code = 2
    hint = "Give the job a repository and proxies that can hold at least one of its tasks."


class PermissionRefused(VbrError):
    code = "permission_refused"
    exit_code = 6
    hint = "Use the account that owns the home directory, or have its rights corrected."


class OutputRefused(VbrError):
    code = "output_refused"
    exit_code = 6
    hint = "Write to a new file below a directory that the service allows for restores."


# --- service and processes ------------------------------------------------------------------------


class ServiceUnavailable(VbrError):
    code = "service_unavailable"
    exit_code = 18
    hint = "See log/service.log in the home directory."
    retryable = True


class ServiceAlreadyRunning(VbrError):
    code = "service_already_running"
    exit_code = 18
    hint = "One service per home directory; 'service status' shows it."


class ServiceStopping(VbrError):
    code = "service_stopping"
    exit_code = 18
    hint = "Try again when it has stopped."
    retryable = True


class CatalogNewer(VbrError):
    code = "catalog_newer"
    exit_code = 14
    hint = "Use the version of vbrcore that wrote this catalog, or a later one."


class CatalogDamaged(VbrError):
    code = "catalog_damaged"
    exit_code = 13
    hint = "Restore catalog.db from a copy, or start with an empty home and import the repositories."


class CatalogUnavailable(VbrError):
    code = "catalog_unavailable"
    exit_code = 18
    hint = "The catalog's file could not be read or written in time: check space and rights in the home directory."
    retryable = True


class ProtocolError(VbrError):
    code = "protocol_error"
    exit_code = 19
    hint = "The two sides do not speak the same version, or the connection was disturbed."
    retryable = True


class MoverLost(VbrError):
    code = "mover_lost"
    exit_code = 19
    hint = "The process ended or was cut off; the task is tried again."
    retryable = True


class ManagerLost(VbrError):
    code = "manager_lost"
    exit_code = 19
    hint = "The job manager ended without a result; points that were committed before stay. Run the job again."
    retryable = True


class TransportLost(VbrError):
    code = "transport_lost"
    exit_code = 19
    hint = "The process that starts movers ended or was cut off; its tasks are tried again."
    retryable = True


class SessionStopped(VbrError):
    code = "session_stopped"
    exit_code = 130
    hint = "The session was stopped on request."


class OutsideWindow(VbrError):
    code = "outside_window"
    exit_code = 3
    hint = "The job's window ended first: make it longer, start the job earlier, or give it more slots or priority."


class NoRoute(VbrError):
    code = "no_route"
    exit_code = 2
    hint = (
        "Both servers only dial and neither can be dialled: give one of them an address and ports that the other"
        " reaches, or choose a proxy on the other server."
    )


class NoDataAddress(VbrError):
    code = "no_data_address"
    exit_code = 2
    hint = "Set the server's address to one that it has itself and that the other servers dial, or let it only dial."


class NoFreePort(VbrError):
    code = "no_free_port"
    exit_code = 19
    hint = "All ports of the server's range are taken: give it a wider range, or find out who else uses it."
    retryable = True


class PeerRefused(VbrError):
    code = "peer_refused"
    exit_code = 19
    hint = (
        "Something else answered where the other mover was expected, or a clock is wrong by more than a day; nothing"
        " was sent to it."
    )
    retryable = True


class LeaseLost(VbrError):
    code = "lease_lost"
    exit_code = 19
    hint = "The session could not renew its leases in time, so its slots were given away."
    retryable = True


# --- managed servers -------------------------------------------------------------------------------


class ServerUnreachable(VbrError):
    code = "server_unreachable"
    exit_code = 20
    hint = "Check that the server is up, its name and SSH port, and what stands between; it is tried again."
    retryable = True


class HostKeyChanged(VbrError):
    code = "host_key_changed"
    exit_code = 20
    hint = "Another machine answers, or the server was set up anew: only if you know why, remove it and add it again."


class LoginRefused(VbrError):
    code = "login_refused"
    exit_code = 20
    hint = "Check the user, and the key, agent or password that was given for the server."


class HostKeyUnconfirmed(VbrError):
    code = "host_key_unconfirmed"
    exit_code = 2
    hint = "Compare the fingerprint with that on the server ('ssh-keygen -lf FILE'), then give --accept-host-key."


class ServerUnsuitable(VbrError):
    code = "server_unsuitable"
    exit_code = 20
    hint = "A server needs Linux with glibc and CPython 3.11 to 3.13, and a cache directory that the user may write."


class CommandFailed(VbrError):
    code = "command_failed"
    exit_code = 20
    hint = "A command on a managed server failed; its own words are given."


class WheelsMissing(VbrError):
    code = "wheels_missing"
    exit_code = 20
    hint = "The message has the command that fetches them on the backup server (or on a machine with internet access)."


# --- repositories, chains, files -------------------------------------------------------------------


class RepositoryNotMounted(VbrError):
    code = "repository_not_mounted"
    exit_code = 10
    hint = "The directory or its identity file is missing: mount the file system that holds the repository."
    retryable = True


class RepositoryNotEmpty(VbrError):
    code = "repository_not_empty"
    exit_code = 10
    hint = "Give a directory that is absent or empty."


class RepositoryExists(VbrError):
    code = "repository_exists"
    exit_code = 10
    hint = "This directory is a repository already: use 'repository import'."


class NoBackupsFound(VbrError):
    code = "no_backups_found"
    exit_code = 10
    hint = "Give the directory that holds the chains' directories with their backup files (*.vbf)."


class RepositoryFull(VbrError):
    code = "repository_full"
    exit_code = 10
    hint = "Free space, add space, or lower the reserve with 'repository add --reserve'."


class RepositoryReadOnly(VbrError):
    code = "repository_read_only"
    exit_code = 10
    hint = "Make the file system writable for the account that runs the target mover."


class StorageFailed(VbrError):
    code = "storage_failed"
    exit_code = 10
    hint = "The storage reported an error; nothing after the last committed point was kept."
    retryable = True


class ShareUnreachable(VbrError):
    code = "share_unreachable"
    exit_code = 10
    hint = "Check that the host of the share is up, and that its port (445) can be reached from the gateway."
    retryable = True


class ShareRefused(VbrError):
    code = "share_refused"
    exit_code = 10
    hint = "Check the credential and its rights on the share; it must speak SMB 3 and let nobody in as a guest."


class NoGateway(VbrError):
    code = "no_gateway"
    exit_code = 10
    hint = "Give a server that can reach the share the role gateway, or name one with 'repository add --gateway'."
    retryable = True


class ChainLocked(VbrError):
    code = "chain_locked"
    exit_code = 11
    hint = "Another target mover writes this chain, or one that was cut off still holds it."
    retryable = True


class WriterReplaced(VbrError):
    code = "writer_replaced"
    exit_code = 11
    hint = "A later session has written to this chain; this one must not."


class ChainDiffers(VbrError):
    code = "chain_differs"
    exit_code = 11
    hint = "The source's chain was replaced by another one. Copy it with a new job, or move the old copy's files away."


class BlocksMissing(VbrError):
    code = "blocks_missing"
    exit_code = 13
    hint = "The closure check found blocks that never arrived; the machine is tried again."
    retryable = True


class DataCorrupt(VbrError):
    code = "data_corrupt"
    exit_code = 13
    hint = "A checksum or digest does not match: run 'verify' on the point and on its neighbours."


class DamageFound(VbrError):
    code = "damage_found"
    exit_code = 20
    hint = (
        "What was found is in the session's report ('session show'). The next session of the job reads the damaged"
        " ranges again; what its machines no longer have is lost."
    )


class FormatNewer(VbrError):
    code = "format_newer"
    exit_code = 14
    hint = "This file was written by a later version of vbrcore: use that one."


class FormatInvalid(VbrError):
    code = "format_invalid"
    exit_code = 13
    hint = "The file is no backup file, or both of its slots are damaged."


class KeyNeeded(VbrError):
    code = "key_needed"
    exit_code = 12
    hint = "The chain is encrypted: give its passphrase."


class NotEncrypted(VbrError):
    code = "not_encrypted"
    exit_code = 12
    hint = "The repository is encrypted and this chain is not, so it was not made there: move its directory away."


class WrongPassphrase(VbrError):
    code = "wrong_passphrase"
    exit_code = 12
    hint = "Give the passphrase or key file that the chain was last set to; nobody can open it without one of them."


# --- plugins, hypervisors, source data -------------------------------------------------------------


class PluginUnknown(VbrError):
    code = "plugin_unknown"
    exit_code = 15
    hint = "'plugins list' shows what is installed; the others are optional extras, e.g. pip install vbrcore[kvm]."


class PluginBroken(VbrError):
    code = "plugin_broken"
    exit_code = 15
    hint = "'plugins list' shows the reason; install a version that fits."


class CapabilityMissing(VbrError):
    code = "capability_missing"
    exit_code = 15
    hint = "'plugins list' shows what each plugin can do."


class HypervisorUnreachable(VbrError):
    code = "hypervisor_unreachable"
    exit_code = 17
    hint = "Check the address, the account and that the hypervisor's service runs."
    retryable = True


class HypervisorFailed(VbrError):
    code = "hypervisor_failed"
    exit_code = 17
    hint = "The hypervisor refused or failed a call; its message is given."
    retryable = True


class MachineNotFound(VbrError):
    code = "machine_not_found"
    exit_code = 17
    hint = "The machine was removed or renamed: change the job's selection."


class MachineBusy(VbrError):
    code = "machine_busy"
    exit_code = 17
    hint = "Another operation holds the machine, e.g. a migration or somebody else's backup."
    retryable = True


class SnapshotInvalid(VbrError):
    code = "snapshot_invalid"
    exit_code = 17
    hint = "What was read is not one moment, e.g. the machine was started meanwhile; it is tried again."
    retryable = True


class TrackingLost(VbrError):
    """The changes since the base are not known; the mover compares digests instead. Never fails a task."""

    code = "tracking_lost"
    exit_code = 17
    hint = "This disk is compared in full; the next session can use change tracking again."


class ImageInvalid(VbrError):
    code = "image_invalid"
    exit_code = 16
    hint = "The virtual disk is missing, truncated or damaged: check it with qemu-img check."


class ImageEscapesDirectory(VbrError):
    code = "image_escapes_directory"
    exit_code = 16
    hint = "Backing files, extents and data files of a disk must lie in its machine's directory."


class ProgramMissing(VbrError):
    code = "program_missing"
    exit_code = 16
    hint = "Install it and see that it is on the PATH: qemu-img and qemu-nbd are in qemu-utils, prlimit in util-linux."


class SourceReadFailed(VbrError):
    code = "source_read_failed"
    exit_code = 16
    hint = "The source disk could not be read; the message names the disk and the offset."
    retryable = True


class SinkWriteFailed(VbrError):
    code = "sink_write_failed"
    exit_code = 16
    hint = "The restored disk could not be written: check space and rights at the destination."


class ScratchFull(VbrError):
    code = "scratch_full"
    exit_code = 17
    hint = "The scratch directory ran low during the backup, so it was ended before the guest could stall."
    retryable = True
