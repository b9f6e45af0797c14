"""What eviction moves and leaves, in the short form of its simulation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# Bytes moved per byte of new ones, and bytes stored per live one.
AIMS = {"clone": (0.0, 1.06), "punch": (0.5, 1.06), "copy": (2.0, 1.3)}


@pytest.mark.parametrize("storage_class", AIMS)
def test_moved_and_stored_bytes(storage_class: str) -> None:
    program = [sys.executable, str(CHECKOUT / "bench" / "eviction.py"), "--days", "100", "--blocks", "800"]
    choice = ["--class", storage_class, "--policy", "keep-14"]
    done = subprocess.run([*program, *choice], check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    moved, stored = AIMS[storage_class]
    assert figures["moved_per_new"]["later"] <= moved
    assert figures["stored_per_live"] <= stored
