"""Domains on the libvirt hosts of the lab, made and looked at there and not through the product."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
IMAGES = "/var/lib/libvirt/images"
HOSTS = ("kvm1", "kvm2")


class RemoteGuest:
    """A domain without a system on a host of the lab. What "the guest writes" goes through QEMU's monitor there."""

    def __init__(self, lab: Any, host: str, name: str) -> None:
        self.lab = lab
        self.host = host
        self.name = name
        self.targets: list[str] = []

    def virsh(self, *words: str) -> str:
        text: str = self.lab.exec(self.host, "virsh", "-q", "-c", "qemu:///system", *words)
        return text

    def image(self, target: str) -> str:
        return f"{IMAGES}/{self.name}-{target}.qcow2"

    def define(self, sizes: tuple[int, ...]) -> None:
        self.targets = [f"vd{'abc'[number]}" for number in range(len(sizes))]
        for target, size in zip(self.targets, sizes, strict=True):
            self.lab.exec(self.host, "qemu-img", "create", "-q", "-f", "qcow2", self.image(target), str(size))
        disks = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{self.image(target)}'/>"
            f"<target dev='{target}' bus='virtio'/></disk>"
            for target in self.targets
        )
        definition = self.lab.files(self.host, f"/root/{self.name}.xml")
        definition.write_text(
            f"<domain type='qemu'><name>{self.name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu><os>"
            f"<type arch='x86_64' machine='pc'>hvm</type></os><devices>{disks}</devices></domain>",
            "utf-8",
        )
        self.virsh("define", f"/root/{self.name}.xml")

    def start(self) -> None:
        self.virsh("start", "--paused", self.name)

    @property
    def running(self) -> bool:
        return self.virsh("domstate", self.name).strip() != "shut off"

    def write(self, number: int, offset: int, data: bytes) -> None:
        source = self.lab.files(self.host, "/srv/data")
        source.write_bytes(data)
        source.chmod(0o644)
        command = f"write -s /srv/data {offset} {len(data)}"
        if not self.running:
            self.lab.exec(self.host, "qemu-io", "-f", "qcow2", "-c", command, self.image(self.targets[number]))
            return
        for one in (command, "flush"):
            backend = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
            text = self.virsh("qemu-monitor-command", self.name, "--hmp", f'qemu-io -d {backend} "{one}"')
            assert "rror" not in text, text

    def content(self, number: int) -> bytes:
        """Return a disk's bytes as QEMU's own tools see them there."""
        return content_of(self.lab, self.host, self.image(self.targets[number]))

    def reset(self) -> None:
        for checkpoint in self.virsh("checkpoint-list", self.name, "--name").split():
            self.virsh("checkpoint-delete", self.name, checkpoint)

    def left_over(self) -> str:
        """Return what is there of a backup: jobs, checkpoints, sockets, scratch files, private directories."""
        found = self.virsh("checkpoint-list", self.name, "--name").strip()
        script = (
            'virsh -q -c qemu:///system backup-dumpxml "$1" 2>/dev/null;'
            "ls -A /run/libvirt/vbrcore /var/lib/libvirt/vbrcore-scratch 2>/dev/null | grep vbr-;"
            "ls -Ad /tmp/vbr-* /var/lib/libvirt/images/.vbr-* 2>/dev/null; true"
        )
        return found + str(self.lab.exec(self.host, "sh", "-c", script, "sh", self.name)).strip()

    def remove(self) -> None:
        with contextlib.suppress(pytest.fail.Exception):
            self.virsh("destroy", self.name)
        with contextlib.suppress(pytest.fail.Exception):
            self.virsh("undefine", self.name, "--checkpoints-metadata")
        self.lab.exec(self.host, "sh", "-c", 'rm -f /var/lib/libvirt/images/"$1"*', "sh", self.name)


def content_of(lab: Any, host: str, path: str) -> bytes:
    whole: Path = lab.files(host, "/srv/whole")
    lab.exec(host, "qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path, "/srv/whole")
    try:
        return whole.read_bytes()
    finally:
        whole.unlink()
