"""A guest that is small enough to boot without KVM in seconds: this machine's kernel, busybox, one disk.

It mounts the file system on its disk and appends numbered records to a file, each synced before its number appears on
the console.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

URI = "qemu:///system"
IMAGES = Path("/var/lib/libvirt/images")
PREFIX = "vbr-demo-"
BOOT_TIMEOUT_S = 120.0

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in /modules/*; do insmod $module; done
while ! [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /mnt || poweroff -f
number=1
while true; do
    dd if=/dev/urandom of=/mnt/data.$((number % 40)) bs=64k count=4 2>/dev/null
    echo "record $number" >>/mnt/records
    sync
    echo "record $number" >/dev/ttyS0
    number=$((number + 1))
    sleep 0.1
done
"""


class GuestFailed(Exception):
    """The guest did not do what it should."""


def missing() -> str:
    """Return what a guest would need and is not here; empty where one can run."""
    for program in ("virsh", "qemu-system-x86_64", "busybox", "cpio", "modprobe"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if not _kernels():
        return "there is no kernel below /boot"
    if os.geteuid() != 0:
        return f"only root may put disks into {IMAGES}"
    done = subprocess.run(["virsh", "-c", URI, "uri"], check=False, capture_output=True)
    return "libvirtd does not run" if done.returncode else ""


def records_on(image: Path) -> list[int]:
    """Return the numbers of the records in a raw image's file system, in the order in which they stand there."""
    text = _run("debugfs", "-R", "cat records", image)
    return [int(number) for number in re.findall(r"^record (\d+)$", text, re.MULTILINE)]


class Guest:
    """One domain with a qcow2 disk, in a directory of its own that QEMU's account may enter."""

    uri = URI

    def __init__(self) -> None:
        remove_left_over()
        self.name = f"{PREFIX}{os.getpid()}"
        self.directory = IMAGES / self.name
        self.image = self.directory / "root.qcow2"
        self._console = self.directory / "console.log"

    def start(self, raw: Path) -> None:
        """Boot from a copy of a raw image."""
        self.directory.mkdir(mode=0o711, parents=True)
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self.image)
        kernel = _kernels()[-1]
        shutil.copyfile(kernel, self.directory / "kernel")
        make_initrd(kernel.name.removeprefix("vmlinuz-"), self.directory)
        definition = self.directory / "domain.xml"
        definition.write_text(self._definition(), encoding="utf-8")
        _run("virsh", "-c", URI, "define", definition)
        _run("virsh", "-c", URI, "start", self.name)

    def records(self) -> int:
        """Return the number of the last record that the guest said is on its disk."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        return max((int(number) for number in re.findall(r"record (\d+)\r?\n", text)), default=0)

    def wait_for_record(self, number: int) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while self.records() < number:
            if time.monotonic() > deadline:
                tail = self._console.read_text(errors="replace")[-1000:] if self._console.exists() else ""
                raise GuestFailed(f"the guest did not write record {number} in time: {tail}")
            time.sleep(0.1)

    def hold(self) -> None:
        _run("virsh", "-c", URI, "suspend", self.name)

    def go_on(self) -> None:
        _run("virsh", "-c", URI, "resume", self.name)

    def remove(self) -> None:
        _remove(self.name)

    def _definition(self) -> str:
        # Always without KVM: a machine that is itself a guest may have a /dev/kvm that does not get this far.
        return (
            f"<domain type='qemu'><name>{self.name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64' machine='pc'>hvm</type>"
            f"<kernel>{self.directory}/kernel</kernel><initrd>{self.directory}/initrd</initrd>"
            "<cmdline>console=ttyS0 quiet panic=-1</cmdline></os><features><acpi/></features>"
            "<on_reboot>destroy</on_reboot><devices>"
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{self.image}'/>"
            "<target dev='vda' bus='virtio'/></disk>"
            f"<serial type='file'><source path='{self._console}'/></serial></devices></domain>"
        )


def remove_left_over() -> None:
    """Remove guests of demonstrations that were killed: their names end in the id of a process that is gone."""
    names = {path.name for path in IMAGES.glob(f"{PREFIX}*")} | set(
        _run("virsh", "-c", URI, "list", "--all", "--name").split()
    )
    for name in names:
        pid = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and pid.isdecimal() and not Path("/proc", pid).exists():
            _remove(name)


def _remove(name: str) -> None:
    for command in (["destroy", name], ["undefine", name, "--checkpoints-metadata"]):
        subprocess.run(["virsh", "-q", "-c", URI, *command], check=False, capture_output=True)
    shutil.rmtree(IMAGES / name, ignore_errors=True)


def make_initrd(version: str, directory: Path) -> None:
    """Write `initrd`: busybox, the modules of a kernel that virtio disks and ext4 need, and what to do."""
    tree = directory / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy2(shutil.which("busybox") or "", tree / "bin" / "busybox")
    (tree / "init").write_text(INIT, encoding="ascii")
    (tree / "init").chmod(0o755)
    text = "".join(
        _run("modprobe", "--set-version", version, "--show-depends", module)
        for module in ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
    )
    paths = dict.fromkeys(Path(path) for path in re.findall(r"^insmod (\S+)", text, re.MULTILINE))
    for number, path in enumerate(paths):
        to = tree / "modules" / f"{number:02}-{path.name.removesuffix('.xz')}"
        if path.suffix == ".xz":
            to.write_bytes(subprocess.run(["xz", "-dc", path], check=True, capture_output=True).stdout)
        else:
            shutil.copyfile(path, to)
    files = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with (directory / "initrd").open("wb") as output:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-D", str(tree)], check=True, input=files.encode(), stdout=output
        )
    shutil.rmtree(tree)


def _kernels() -> list[Path]:
    return sorted(path for path in Path("/boot").glob("vmlinuz-*") if os.access(path, os.R_OK))


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise GuestFailed(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout
