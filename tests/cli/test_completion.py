import subprocess
import sys

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vbrcore", "completion", shell], check=True, capture_output=True, text=True
    )
    for word in ("hypervisor", "schedule", "with-backups"):
        assert word in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, check=True, text=True)
