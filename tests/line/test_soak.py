"""The soak run at a length that a suite can bear: the same rounds each time, and beside them new ones."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).resolve().parents[1] / "soak" / "soak.py"
KILLS = 5


def start(seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(SOAK), "--kills", str(KILLS), "--seed", str(seed), "--lanes", "1", "--no-hangs"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(600)
def test_random_kills_at_random_moments_lose_nothing_and_leave_nothing() -> None:
    # Most of a round is waiting, e.g. for the moment at which a machine is tried again.
    with start(20) as fixed, start(random.SystemRandom().randrange(1 << 32)) as drawn:
        for process in (fixed, drawn):
            stdout, stderr = process.communicate(timeout=590)
            report = f"{stderr}\n{stdout}"  # names the seed
            assert process.returncode == 0, report
            lines: list[dict[str, Any]] = [json.loads(line) for line in stdout.splitlines()]
            summary = lines.pop()
            assert summary["failures"] == [], report
            assert summary["kills"] >= KILLS
            assert summary["rounds"] == len(lines)
