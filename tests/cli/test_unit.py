import subprocess
import sys
from pathlib import Path

import pytest

from vbrcore.cli import unit


@pytest.fixture(autouse=True)
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VBRCORE_HOME", raising=False)


@pytest.mark.parametrize("for_user", [False, True])
@pytest.mark.parametrize("home", [None, '/srv/it\'s 100% "odd" $HOME\\x'])
def test_systemd_accepts_the_unit(tmp_path: Path, home: str | None, *, for_user: bool) -> None:
    path = tmp_path / unit.UNIT_NAME
    path.write_text(unit.unit_text(home, for_user=for_user))
    done = subprocess.run(
        ["systemd-analyze", *(["--user"] if for_user else []), "verify", str(path)],
        check=False,
        capture_output=True,
        text=True,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert unit.UNIT_NAME not in done.stderr


def test_what_the_unit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VBRCORE_HOME", "/srv/100%/a b")
    lines = unit.unit_text(None, for_user=False).splitlines()
    assert "KillMode=process" in lines
    assert 'Environment="VBRCORE_HOME=/srv/100%%/a b"' in lines
    [start] = [line for line in lines if line.startswith("ExecStart=")]
    assert start == f'ExecStart="{sys.executable}" -m vbrcore service run'


def test_homes_without_being_told() -> None:
    assert '"VBRCORE_HOME=/var/lib/vbrcore"' in unit.unit_text(None, for_user=False)
    assert '"VBRCORE_HOME=%h/.local/share/vbrcore"' in unit.unit_text(None, for_user=True)


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="would enable the service of this account")
def test_where_systemd_does_not_run_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vbrcore", "service", "install", "--user"],
        check=True,
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path)},
    )
    written = tmp_path / ".config" / "systemd" / "user" / unit.UNIT_NAME
    assert done.stdout.startswith(f"written: {written}\n")
    assert "systemctl --user enable" in done.stdout
    assert written.read_text() == unit.unit_text(None, for_user=True)
