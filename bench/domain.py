"""A running libvirt domain with the benchmark's disk, and who backs it up from there: virtnbdbackup and our kvm plugin.

The guest has no boot loader and stays at its firmware's prompt; what it would write goes through the device's block
backend by QEMU's monitor, with the same effect on bitmaps and backups. Each contestant finds the same domain and the
same disk, made anew, because virtnbdbackup refuses a domain that has other tools' checkpoints.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench.contestants import Contestant, Phase
from bench.corpus import Change
from bench.ours import Deployment, Vbrcore
from bench.process import CommandFailed, Done, run

URI: Final = "qemu:///system"
NAME: Final = f"vbrbench-{os.getpid()}"  # two runs may be on at once
_DEVICE: Final = "/machine/peripheral/virtio-disk0/virtio-backend"


class Domain:
    """The domain, running from `start` to `remove`."""

    def __init__(self, directory: Path, source: Path) -> None:
        self.directory = directory
        self.image = directory / "disk.qcow2"
        self._source = source

    def start(self) -> None:
        """Make the disk from the source and start a guest on it. Raises `CommandFailed`."""
        self.remove()
        self.directory.mkdir(mode=0o711, exist_ok=True)
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(self._source), str(self.image)])
        definition = self.directory / "domain.xml"
        definition.write_text(_definition(self.image), encoding="ascii")
        virsh("define", str(definition))
        virsh("start", NAME)

    def apply(self, change: Change) -> None:
        """Have the guest overwrite what `change` names, with the same content."""
        self.write(change.pieces())

    def write(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Have the guest write (offset, content)."""
        piece = self.directory / "piece"
        for offset, data in pieces:
            piece.write_bytes(data)
            piece.chmod(0o644)
            command = f'qemu-io -d {_DEVICE} "write -q -s {piece} {offset} {len(data)}"'
            answer = virsh("qemu-monitor-command", "--hmp", NAME, command)
            if "rror" in answer or "ailed" in answer:
                raise CommandFailed(f"{command}: {answer}")
        piece.unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop and forget the domain and its disk."""
        if NAME in virsh("list", "--all", "--name").split():
            if NAME in virsh("list", "--name").split():
                virsh("destroy", NAME)
            virsh("undefine", NAME, "--checkpoints-metadata")
        shutil.rmtree(self.directory, ignore_errors=True)


class DomainContestant(Contestant):
    """Backs up the running domain instead of the file."""

    @property
    def repository(self) -> Path:
        return self.directory / "repository"


class VirtNbdBackup(DomainContestant):
    """One file per disk and run, uncompressed, changes by dirty bitmap."""

    name = "virtnbdbackup"
    options: tuple[str, ...] = ()

    @classmethod
    def missing(cls) -> str:
        if not shutil.which("virtnbdbackup"):
            return "virtnbdbackup is not installed: script/bench"
        return libvirt_missing()

    @property
    def restored(self) -> Path:
        return self.directory / "restored" / "disk.qcow2"

    @property
    def _environment(self) -> dict[str, str]:
        # It writes its log into the home directory.
        return {"HOME": str(self.directory)}

    def backup(self, phase: Phase) -> Done:
        level = "full" if phase == "full" else "inc"
        command = ["virtnbdbackup", "-U", URI, "-d", NAME, "-l", level, "-n", "-o", str(self.repository), *self.options]
        return self.run([*command, "-S", str(self.directory)], env=self._environment)

    def restore(self) -> Done:
        self.restored.parent.mkdir()
        command = ["virtnbdrestore", "-U", URI, "-n", "-i", str(self.repository), "-o", str(self.restored.parent)]
        return self.run(command, env=self._environment)


class VirtNbdBackupNearest(VirtNbdBackup):
    """Compressed (it has lz4 only)."""

    setting = "nearest"
    options = ("-z",)


class VbrcoreDomain(DomainContestant, Vbrcore):
    """The default job, through the kvm plugin; restored as qcow2, as virtnbdbackup does."""

    name = "vbrcore (kvm)"

    @classmethod
    def missing(cls) -> str:
        return libvirt_missing()

    @property
    def restored(self) -> Path:
        return self.directory / "restored.qcow2"

    def prepare(self) -> None:
        self.deployment.run("hypervisor", "add", "kvm", "--plugin", "kvm", "--set", f"uri={URI}")
        self.deployment.job("kvm", NAME, self.repository)

    def restore(self) -> Done:
        point, disk = self.deployment.newest_point()
        arguments = ("restore", "disk", point, disk, "--output", str(self.restored), "--format", "qcow2")
        return self.run(Deployment.command(*arguments), env=self.deployment.environment)


CONTESTANTS: Final = (VirtNbdBackup, VirtNbdBackupNearest, VbrcoreDomain)


def virsh(*arguments: str) -> str:
    """Run a virsh command. Raises `CommandFailed`."""
    return run(["virsh", "-q", "-c", URI, *arguments], env={**os.environ, "LC_ALL": "C"})


def libvirt_missing() -> str:
    """Return why no domain can be started here, or ""."""
    if not shutil.which("virsh") or not shutil.which("qemu-system-x86_64"):
        return "libvirt or qemu is not installed: script/setup"
    try:
        virsh("uri")
    except CommandFailed as error:
        return f"libvirt does not run: {str(error).splitlines()[0][:200]}"
    return ""


def _definition(image: Path) -> str:
    # Emulated: the guest computes nothing, and /dev/kvm is not everywhere open to QEMU's user.
    return (
        f"<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>"
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>"
        "<target dev='vda' bus='virtio'/></disk></devices></domain>"
    )
