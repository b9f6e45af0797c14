"""Bitmaps in qcow2 images that lie on this machine."""

import json
import subprocess
from pathlib import Path

_QEMU_IMG_TIMEOUT_S = 60
GONE = ("not found", "No such file")


def bitmaps(path: str) -> set[str]:
    """Return the bitmaps in an image as it was last closed; none where it cannot be read."""
    command = ["qemu-img", "info", "--force-share", "--output=json", "-f", "qcow2", path]
    result = subprocess.run(command, capture_output=True, timeout=_QEMU_IMG_TIMEOUT_S, check=False)
    return set() if result.returncode else named_in(result.stdout)


def named_in(info: bytes) -> set[str]:
    """Return the names of the bitmaps in the output of `qemu-img info`."""
    specific = json.loads(info).get("format-specific", {}).get("data", {})
    return {bitmap["name"] for bitmap in specific.get("bitmaps", [])}


def head(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(8)
    except OSError:
        return b""


def remove_bitmap(path: str, name: str) -> bool:
    """Remove a bitmap from a qcow2 image that nobody has open; True also where image or bitmap are gone."""
    command = ["qemu-img", "bitmap", "--remove", "-f", "qcow2", path, name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_QEMU_IMG_TIMEOUT_S, check=False)
    return result.returncode == 0 or any(sign in result.stderr for sign in GONE)
