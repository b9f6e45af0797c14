"""Commands against the real service of a home of its own."""

import json
import os
import pty
import select
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vbr, processes_of


@pytest.fixture
def lab(vbr: Vbr, tmp_path: Path) -> Path:
    """A hypervisor `lab` with an empty directory and a repository `main`."""
    directory = tmp_path / "lab"
    directory.mkdir()
    vbr("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={directory}")
    vbr("repository", "add", "main", "--path", tmp_path / "repository", "--reserve", "1M", "--slots", "3")
    return directory


def test_the_inventory(vbr: Vbr, lab: Path, tmp_path: Path) -> None:
    [hypervisor] = vbr.json("hypervisor", "list")
    assert hypervisor == vbr.json("hypervisor", "show", "lab")
    assert (hypervisor["name"], hypervisor["plugin"], hypervisor["settings"]) == ("lab", "images", {"path": str(lab)})
    repositories = {view["name"]: view for view in vbr.json("repository", "list")}
    main = repositories["main"]
    assert (main["slots"], main["slots_used"], main["state"], main["reserve_bytes"]) == (3, 0, "ok", 1024 * 1024)
    assert main["path"] == str(tmp_path / "repository")
    assert "main" in vbr("repository", "list").stdout
    assert vbr("repository", "show", "main").stdout.split()[:2] == ["name", "main"]
    [server] = vbr.json("server", "list")
    assert server["name"] == "local"
    assert "local" in vbr("server", "list").stdout
    assert "images" in {plugin["id"] for plugin in vbr.json("plugins", "list")}
    assert "images" in vbr("plugins", "list").stdout
    vbr("hypervisor", "remove", "lab")
    assert vbr.json("hypervisor", "list") == []
    assert vbr("hypervisor", "list").stdout == ""
    vbr("repository", "remove", "main")
    assert "main" not in {view["name"] for view in vbr.json("repository", "list")}


def test_relative_paths_are_those_of_the_caller(vbr: Vbr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "machines").mkdir()
    monkeypatch.chdir(tmp_path)
    added = vbr.json("hypervisor", "add", "lab", "--plugin", "images", "--set", "path=machines")
    assert added["settings"] == {"path": str(tmp_path / "machines")}
    assert vbr.json("repository", "add", "main", "--path", "backup")["path"] == str(tmp_path / "backup")


@pytest.mark.usefixtures("lab")
def test_jobs(vbr: Vbr) -> None:
    create = ("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    made = vbr.json(*create, "--exclude", "test-*", "--block-size", "4M", "--compression", "high", "--quiesce")
    [job] = vbr.json("job", "list")
    assert job.keys() >= {"job_id", "name", "hypervisor", "repository", "last_result", "next_run"}
    assert (job["job_id"], job["last_result"], job["next_run"]) == (made["job_id"], None, None)
    assert (job["block_size_bytes"], job["compression"], job["quiesce"]) == (4 * 1024 * 1024, "high", True)
    assert (job["machines"], job["exclude"]) == (["*"], ["test-*"])
    assert "nightly" in vbr("job", "list").stdout
    assert "4.0 MiB" in vbr("job", "show", "nightly").stdout
    assert json.loads(vbr(*create, "--json", exit_code=5).stderr)["error"]["code"] == "already_exists"
    vbr("job", "delete", "nightly")
    assert vbr.json("job", "list") == []


@pytest.mark.usefixtures("lab")
def test_schedules(vbr: Vbr) -> None:
    vbr("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    vbr.environment["TZ"] = "Europe/Berlin"
    daily = vbr("job", "schedule", "nightly", "--daily", "22:00")
    assert "daily at 22:00 (Europe/Berlin)" in daily.stdout
    assert daily.stderr.startswith("warning: "), "no installed service will run it"
    [job] = vbr.json("job", "list")
    assert job["next_run"] is not None
    expected = {"kind": "daily", "daily": "22:00", "every_s": 0, "zone": "Europe/Berlin"}
    assert job["schedule"].items() >= expected.items()
    every = vbr.json("job", "schedule", "nightly", "--every", "15m")
    assert (every["schedule"]["kind"], every["schedule"]["every_s"]) == ("every", 900)
    assert (
        vbr.json("job", "schedule", "nightly", "--daily", "01:30", "--zone", "Asia/Tokyo")["next_run"][11:16] == "16:30"
    )
    vbr("job", "schedule", "nightly", "--daily", "25:00", exit_code=2)
    vbr("job", "schedule", "nightly", "--daily", "01:30", "--zone", "Nowhere", exit_code=2)
    assert vbr.json("job", "schedule", "nightly", "--none")["next_run"] is None


@pytest.mark.usefixtures("lab")
def test_schedules_of_all_kinds(vbr: Vbr) -> None:
    vbr("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")

    def schedule(*options: str) -> dict[str, Any]:
        view: dict[str, Any] = vbr.json("job", "schedule", "nightly", "--zone", "Europe/Berlin", *options)
        return view

    issue = schedule("--daily", "22:00", "--window", "20:00-06:00", "--retries", "3", "--priority", "high")
    assert issue["schedule"]["window"] == {"begin": "20:00", "end": "06:00", "zone": "Europe/Berlin"}
    assert (issue["schedule"]["retries"], issue["priority"], issue["next_reason"]) == (3, "high", "schedule")
    days = schedule("--days", "last sat", "--at", "21:30", "--no-catch-up", "--retry-wait", "5m")["schedule"]
    assert (days["kind"], days["days"], days["catch_up"], days["retry_wait_s"]) == ("days", "last sat", False, 300)
    assert "on last sat at 21:30" in vbr("job", "show", "nightly").stdout
    shown = vbr("schedule", "preview", "nightly", "--count", "2").stdout.splitlines()
    assert len(shown) == 3
    assert all("T21:30:00+0" in line for line in shown[1:])
    assert schedule("--cron", "0 8 * * mon-fri")["schedule"]["cron"] == "0 8 * * mon-fri"
    assert schedule("--continuous", "--pause", "1d")["schedule"]["every_s"] == 86400
    assert "again 24 h 0 min after it has ended" in vbr("job", "show", "nightly").stdout
    vbr("job", "schedule", "nightly", "--none")


def test_options_of_schedules_that_do_not_go_together(vbr: Vbr) -> None:
    for wrong in (
        ("--daily", "22:00", "--at", "21:00"),
        ("--days", "sat"),
        ("--every", "1h", "--pause", "5m"),
        ("--every", "1h", "--any-result"),
        ("--every", "1h", "--hard-window"),
        ("--every", "1h", "--window", "20:00"),
    ):
        assert "usage" in vbr("job", "schedule", "nightly", *wrong, "--json", exit_code=2).stderr


def test_rules_between_sites(vbr: Vbr) -> None:
    rule = vbr.json("network", "rule", "paris", "london", "--rate-limit", "50M")
    assert rule == {"site_a": "london", "site_b": "paris", "rate_limit_bytes_s": 50 * 1024 * 1024}
    vbr("network", "rule", "london", "paris", "--rate-limit", "1M")
    [rule] = vbr.json("network", "list")
    assert rule["rate_limit_bytes_s"] == 1024 * 1024
    assert "london  paris  1.0 MiB/s" in vbr("network", "list").stdout
    vbr("network", "rule", "london", "paris", "--rate-limit", "3", exit_code=2)
    vbr("network", "remove", "paris", "london")
    assert vbr.json("network", "list") == []
    vbr("network", "remove", "paris", "london", exit_code=4)


def test_credentials(vbr: Vbr, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    vbr("credential", "add", "vcenter", "--username", "backup", "--password-file", secret)
    [credential] = vbr.json("credential", "list")
    assert credential.keys() == {"credential_id", "name", "username"}
    assert (credential["name"], credential["username"]) == ("vcenter", "backup")
    assert "s3cret" not in vbr("credential", "list").stdout
    refused = vbr("credential", "add", "x", "--username", "u", "--password-file", "prompt", exit_code=2)
    assert "needs a terminal" in refused.stderr
    vbr("credential", "remove", "vcenter")
    assert vbr.json("credential", "list") == []


ERRORS = (
    ("not_found", 4, "job show absent"),
    ("not_found", 4, "session log absent"),
    ("not_found", 4, "point list --job absent"),
    ("plugin_unknown", 15, "hypervisor add x --plugin nonsense"),
    ("invalid_value", 2, "hypervisor add x --plugin images --set nonsense=1"),
    ("file_unusable", 2, "hypervisor add x --plugin images --set-file k=/absent"),
    ("usage", 2, "restore disk P D --output - --format qcow2"),
)


def test_an_error_is_one_clear_line(vbr: Vbr) -> None:
    for code, exit_code, command in ERRORS:
        for_people = vbr(*command.split(), exit_code=exit_code)
        first, *others = for_people.stderr.splitlines()
        assert for_people.stdout == ""
        assert first.startswith("error: ")
        assert [line for line in others if not line.startswith("hint: ")] == []
        for_programs = vbr(*command.split(), "--json", exit_code=exit_code)
        error = json.loads(for_programs.stderr)["error"]
        assert for_programs.stdout == ""
        assert (error["code"], error["exit_code"]) == (code, exit_code)
        assert first == f"error: {error['message']}"


def test_a_file_that_is_no_repository_of_ours_is_left_alone(vbr: Vbr, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    refused = vbr("repository", "add", "main", "--path", tmp_path, "--json", exit_code=10)
    assert json.loads(refused.stderr)["error"]["code"] == "repository_not_empty"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_processes(vbr: Vbr) -> None:
    vbr("job", "list")
    [service] = vbr.json("ps")
    assert service.keys() - {"job_name"} == {
        "kind",
        "pid",
        "parent_pid",
        "server",
        "role",
        "job_id",
        "session_id",
        "task_id",
        "disk",
        "cpu_percent",
        "memory_bytes",
        "log_path",
    }
    assert service["kind"] == "service"
    assert service["memory_bytes"] > 0
    assert vbr("ps").stdout.splitlines()[1].startswith("service ")


def test_status_and_stop_start_nothing(vbr: Vbr) -> None:
    assert json.loads(vbr("service", "status", "--json", exit_code=18).stderr)["error"]["code"] == "service_unavailable"
    assert vbr("service", "stop").stdout == "no service runs\n"
    assert not any(vbr.home.glob("run/*.sock"))
    vbr("job", "list")
    status = vbr.json("service", "status")
    assert (status["home"], status["installed"], status["sessions_running"]) == (str(vbr.home), False, 0)
    assert f"pid        {status['pid']}\n" in vbr("service", "status").stdout
    assert vbr.json("service", "stop") == {"stopped": True}
    assert processes_of(vbr.home) == {}
    assert vbr.json("service", "stop") == {"stopped": False}


def test_the_home_may_stand_anywhere(vbr: Vbr) -> None:
    del vbr.environment["VBRCORE_HOME"]
    pid = vbr.json("--home", vbr.home, "ps")[0]["pid"]
    assert vbr.json("ps", "--home", vbr.home)[0]["pid"] == pid
    assert vbr.json("service", "--home", vbr.home, "status")["pid"] == pid
    assert stat.S_IMODE(vbr.home.stat().st_mode) == 0o700


@pytest.fixture
def on_terminal(vbr: Vbr) -> Callable[..., tuple[int, str]]:
    """Run a command on a terminal, type a line when it asks; return its exit code and what the terminal showed."""

    def run(*args: str, typed: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        shown = b""
        try:
            with vbr.start(*args, stdin=theirs, stderr=theirs, start_new_session=True) as command:
                while not shown.endswith(b": ") and select.select([ours], [], [], 30)[0]:
                    shown += os.read(ours, 1024)
                os.write(ours, typed.encode())
                try:
                    command.wait(timeout=30)
                finally:
                    command.kill()
            while select.select([ours], [], [], 0)[0]:
                shown += os.read(ours, 1024)
        finally:
            os.close(ours)
            os.close(theirs)
        return command.returncode, shown.decode()

    return run


@pytest.mark.usefixtures("lab")
def test_backups_go_only_with_the_name_typed(vbr: Vbr, on_terminal: Callable[..., tuple[int, str]]) -> None:
    vbr("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    unasked = vbr("job", "delete", "nightly", "--with-backups", "--json", exit_code=2)
    assert json.loads(unasked.stderr)["error"]["code"] == "confirmation_needed"
    vbr("job", "delete", "nightly", "--with-backups", "--confirm", "nightl", exit_code=2)
    code, said = on_terminal("job", "delete", "nightly", "--with-backups", typed="nigthly\n")
    assert code == 2
    assert "cannot be undone" in said
    assert len(vbr.json("job", "list")) == 1
    assert on_terminal("job", "delete", "nightly", "--with-backups", typed="nightly\n")[0] == 0
    assert vbr.json("job", "list") == []


def test_a_password_is_typed_unseen(vbr: Vbr, on_terminal: Callable[..., tuple[int, str]]) -> None:
    code, shown = on_terminal(
        "credential", "add", "v", "--username", "u", "--password-file", "prompt", typed="s3cret\n"
    )
    assert (code, "s3cret" in shown) == (0, False)
    assert len(vbr.json("credential", "list")) == 1


def test_a_reader_that_leaves_is_no_disaster(vbr: Vbr) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [*vbr.command, "plugins", "list"], check=False, stdout=output, stderr=subprocess.PIPE, env=vbr.environment
        )
    assert (done.returncode, done.stderr) == (1, b"")
