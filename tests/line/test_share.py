"""A repository on an SMB share, with a real smbd: the whole line over it, and what happens when the share goes."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from vbrcore.testing.smbd import PASSWORD_TEXT, Smbd

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def shared(line: Any, smbd: Smbd, tmp_path: Path) -> Any:
    """A line whose repository `main` is a directory of a share."""
    password = tmp_path / "password"
    password.write_text(PASSWORD_TEXT + "\n")
    line("credential", "add", "nas", "--username", smbd.user, "--password-file", password)
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    url = f"//127.0.0.1:{smbd.port}/data/deep/er"
    line("repository", "add", "main", "--smb", url, "--credential", "nas", "--reserve", "1M", "--site", "cellar")
    return line


def test_the_line_runs_over_a_share(shared: Any, make_disk: Any, sha256: Any, tmp_path: Path) -> None:
    line = shared
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1)
    view = line.json("repository", "show", "main")
    assert (view["kind"], view["site"], view["credential"], view["gateways"]) == ("smb", "cellar", "nas", [])
    assert (view["state"], view["class"], view["server"]) == ("ok", "punch", "local")
    line.add_job("nightly")
    first = line.run_job()
    assert line.run_job()["result"] == "success"
    points = line.points()
    assert sha256(line.restore(points[0]["point_id"], "disk.raw")) == sha256(disk)
    assert line.json("health", "check", "nightly")["report"]["chains"][0]["finding_count"] == 0
    assert line.json("repository", "rescan", "main")["removed"] == []
    log = line("session", "log", first["session_id"])
    assert "gateway local: the only one that can" in log
    # Copied from the share to a directory, and points deleted on it.
    line("repository", "add", "copies", "--path", line.repository, "--reserve", "1M")
    line("job", "create", "copy", "--from-repository", "main", "--machine", "*", "--repository", "copies")
    line.run_job("copy")
    assert len(line.points("copy")) == len(points)
    line("point", "delete", points[0]["point_id"])
    assert len(line.points()) == len(points) - 1
    line("job", "delete", "nightly", "--with-backups", "--confirm", "nightly")
    line.refused("in_use", "credential", "remove", "nas")
    line("job", "delete", "copy")
    line("repository", "remove", "main", "--with-backups", "--confirm", "main")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
    line("credential", "remove", "nas")


def test_the_password_stays_where_it_belongs(shared: Any, make_disk: Any, tmp_path: Path) -> None:
    """Not on a command line, not in a log, not in what the catalog holds in clear."""
    line = shared
    make_disk(line.lab / "web" / "disk.raw", seed=2)
    line.add_job("nightly")
    started = line.start_job()
    seen = set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and line.session(started["session_id"])["state"] != "ended":
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                seen.add(place.read_bytes())
    assert any(b"target" in words and b"mover" in words for words in seen)
    assert not any(PASSWORD_TEXT.encode() in words for words in seen)
    for path in (*line.home.rglob("*"), *(tmp_path / "data").rglob("*")):
        if path.is_file():
            assert PASSWORD_TEXT.encode() not in path.read_bytes(), path


def test_a_share_that_goes_away_fails_the_session_and_comes_back(
    shared: Any, smbd: Smbd, make_disk: Any, sha256: Any
) -> None:
    line = shared
    make_disk(line.lab / "web" / "disk.raw", seed=3)
    line.add_job("nightly")
    line.run_job()
    kept = line.points()
    disk = make_disk(line.lab / "web" / "disk.raw", seed=4, data_mib=96, size_bytes=128 * 1024 * 1024)
    started = line.start_job()
    deadline = time.monotonic() + 60
    stored = smbd.home.parent / "data"
    while sum(path.stat().st_size for path in stored.rglob("*.vbf")) < 16 * 1024 * 1024:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    smbd.kill()
    smbd.start()  # at once, as a server that restarts: the writer had its file open and locked, and must not go on
    ended = line.wait_for_end(started["session_id"], timeout_s=240)
    assert ended["state"] == "ended"
    if ended["result"] != "success":  # its retries may have found the share again
        assert line.run_job()["result"] == "success"
    points = line.points()
    assert len(points) == len(kept) + 1
    assert sha256(line.restore(points[-1]["point_id"], "disk.raw")) == sha256(disk)
    assert line.json("health", "check", "nightly", "--deep")["report"]["chains"][0]["finding_count"] == 0


def test_what_cannot_be_opened_is_refused_when_it_is_added(line: Any, smbd: Smbd, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a wrong one")
    line("credential", "add", "wrong", "--username", smbd.user, "--password-file", password)
    where = f"//127.0.0.1:{smbd.port}/data"
    line.refused("share_refused", "repository", "add", "a", "--smb", where, "--credential", "wrong")
    line.refused("not_found", "repository", "add", "a", "--smb", where, "--credential", "nobody")
    line.refused("not_found", "repository", "add", "a", "--smb", where, "--credential", "wrong", "--gateway", "no")
    line.refused("invalid_value", "repository", "add", "a", "--smb", where)
    line.refused("invalid_value", "repository", "add", "a", "--smb", "//x", "--credential", "wrong")
    line.refused("not_found", "repository", "add", "a", "--server", "no", "--path", "/srv/x")
    line.refused("invalid_value", "repository", "add", "a", "--path", str(tmp_path / "x"), "--credential", "wrong")
    smbd.kill()
    line.refused("no_gateway", "repository", "add", "a", "--smb", where, "--credential", "wrong")
    assert json.loads(line("repository", "list", "--json"))[0]["name"] == "default"
    assert list((tmp_path / "data").iterdir()) == []
