"""The measure of data connections works; what it finds is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_way_is_taken() -> None:
    program = [sys.executable, str(CHECKOUT / "bench" / "wire.py"), "--size", "4M", "--rounds", "2", "--json", "-"]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=100, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["ways"].keys() == {"unix", "tcp", "tls"}
    assert figures["ways"]["unix"]["ratio"]["median"] == 1
    assert all(way["mib_s"]["minimum"] > 0 for way in figures["ways"].values())
