import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def test_the_generated_docs_are_true() -> None:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "script" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "cli.md").read_text() == generate.cli_page(), "run script/generate-docs"
    assert (ROOT / "docs" / "errors.md").read_text() == generate.errors_page(), "run script/generate-docs"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vbrcore", "completion", shell], check=True, capture_output=True, text=True
    )
    for word in ("hypervisor", "schedule", "with-backups"):
        assert word in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, check=True, text=True)
