"""What a user can get wrong on the command line: one typed error, its exit code, and nothing changed."""

from pathlib import Path
from typing import Any

import pytest

MIB = 1024 * 1024
NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def shared_line(shared_line: Any) -> Any:
    line = shared_line
    (line.lab / "web").mkdir()
    (line.lab / "web" / "disk.raw").write_bytes(b"content" * 1000)
    line.set_up()
    line.run_job()
    return line


@pytest.fixture(scope="module")
def point(shared_line: Any) -> str:
    found: str = shared_line.points()[0]["point_id"]
    return found


CREATE = ("job", "create", "new", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
BAD = {
    # unknown things
    "plugin": ("plugin_unknown", ("hypervisor", "add", "x", "--plugin", "vmwhere", "--set", "path=/tmp")),
    "setting": ("invalid_value", ("hypervisor", "add", "x", "--plugin", "images", "--set", "path=/", "--set", "a=b")),
    "no setting": ("invalid_value", ("hypervisor", "add", "x", "--plugin", "images")),
    "empty setting": ("invalid_value", ("hypervisor", "add", "x", "--plugin", "images", "--set", "path=")),
    "unknown secret": ("file_unusable", ("hypervisor", "add", "x", "--plugin", "images", "--set-file", "password=/no")),
    "job": ("not_found", ("job", "run", "nothing")),
    "job of stop": ("not_found", ("job", "stop", "nothing")),
    "job that rests": ("not_found", ("job", "stop", "nightly")),
    "job of schedule": ("not_found", ("job", "schedule", "nothing", "--none")),
    "job of delete": ("not_found", ("job", "delete", "nothing")),
    "job of points": ("not_found", ("point", "list", "--job", "nothing")),
    "job of sessions": ("not_found", ("session", "list", "--job", "nothing")),
    "session": ("not_found", ("session", "show", NOWHERE)),
    "session of log": ("not_found", ("session", "log", "../../secret.key")),
    "point": ("not_found", ("verify", NOWHERE)),
    "point of show": ("not_found", ("point", "show", "' OR 1 = 1 --")),
    "point of delete": ("not_found", ("point", "delete", NOWHERE)),
    "point of restore": ("not_found", ("restore", "disk", NOWHERE, "disk.raw", "--output", "OUT/x")),
    "disk": ("not_found", ("restore", "disk", "POINT", "no.raw", "--output", "OUT/x")),
    "hypervisor": ("not_found", ("restore", "machine", "POINT", "--hypervisor", "no", "--name", "x")),
    "hypervisor of job": ("not_found", (*CREATE[:4], "no", *CREATE[5:])),
    "repository of job": ("not_found", (*CREATE[:-1], "no")),
    "repository": ("not_found", ("repository", "show", "no")),
    "credential": ("not_found", ("credential", "remove", "no")),
    # names that are taken or impossible
    "same hypervisor": ("already_exists", ("hypervisor", "add", "lab", "--plugin", "images", "--set", "path=/")),
    "same repository": ("already_exists", ("repository", "add", "main", "--path", "OUT/repository")),
    "same job": ("already_exists", ("job", "create", "nightly", *CREATE[3:])),
    "hypervisor in use": ("in_use", ("hypervisor", "remove", "lab")),
    "empty name": ("invalid_value", ("job", "create", "", *CREATE[3:])),
    "long name": ("invalid_value", ("job", "create", "x" * 65, *CREATE[3:])),
    "path as name": ("invalid_value", ("job", "create", "../../etc", *CREATE[3:])),
    "newline in name": ("invalid_value", ("job", "create", "a\nb", *CREATE[3:])),
    "path as machine": ("invalid_value", ("restore", "machine", "POINT", "--hypervisor", "lab", "--name", "../x")),
    "machine exists": ("already_exists", ("restore", "machine", "POINT", "--hypervisor", "lab", "--name", "web")),
    # values
    "block size": ("usage", (*CREATE, "--block-size", "2M")),
    "compression": ("usage", (*CREATE, "--compression", "best")),
    "empty machine": ("invalid_value", (*CREATE, "--machine", "")),
    "no machine": ("usage", ("job", "create", "new", "--hypervisor", "lab", "--repository", "main")),
    "format": ("usage", ("restore", "disk", "POINT", "disk.raw", "--output", "OUT/x", "--format", "vdi")),
    "qcow2 to stdout": ("usage", ("restore", "disk", "POINT", "disk.raw", "--output", "-", "--format", "qcow2")),
    "slots": ("invalid_value", ("repository", "add", "r", "--path", "OUT/r", "--slots", "0")),
    "no slots": ("usage", ("repository", "add", "r", "--path", "OUT/r", "--slots", "many")),
    "too many slots": ("invalid_value", ("repository", "add", "r", "--path", "OUT/r", "--slots", str(10**30))),
    "reserve": ("invalid_value", ("repository", "add", "r", "--path", "OUT/r", "--reserve", "a lot")),
    "negative reserve": ("usage", ("repository", "add", "r", "--path", "OUT/r", "--reserve", "-1G")),
    "endless reserve": ("invalid_value", ("repository", "add", "r", "--path", "OUT/r", "--reserve", "9" * 30 + "T")),
    "time of day": ("invalid_value", ("job", "schedule", "nightly", "--daily", "24:00")),
    "zone": ("invalid_value", ("job", "schedule", "nightly", "--daily", "22:00", "--zone", "Europe/Atlantis")),
    "zone as path": ("invalid_value", ("job", "schedule", "nightly", "--daily", "22:00", "--zone", "../../etc/passwd")),
    "interval": ("invalid_value", ("job", "schedule", "nightly", "--every", "sometimes")),
    "short interval": ("invalid_value", ("job", "schedule", "nightly", "--every", "1s")),
    "endless interval": ("invalid_value", ("job", "schedule", "nightly", "--every", f"{'9' * 30}d")),
    "time outside its window": (
        "invalid_value",
        ("job", "schedule", "nightly", "--daily", "12:00", "--window", "20:00-06:00"),
    ),
    "no day": ("invalid_value", ("job", "schedule", "nightly", "--days", "someday", "--at", "22:00")),
    "cron text": ("invalid_value", ("job", "schedule", "nightly", "--cron", "* * *")),
    "cron text that is never due": ("invalid_value", ("job", "schedule", "nightly", "--cron", "0 0 30 2 *")),
    "after itself": ("invalid_value", ("job", "schedule", "nightly", "--after", "nightly")),
    "after nothing": ("not_found", ("job", "schedule", "nightly", "--after", "nothing")),
    "many retries": ("invalid_value", ("job", "schedule", "nightly", "--every", "1h", "--retries", "1000")),
    "preview of nothing": ("not_found", ("schedule", "preview", "nothing")),
    "two schedules": ("usage", ("job", "schedule", "nightly", "--every", "1h", "--none")),
    "limit": ("invalid_value", ("session", "list", "--limit", "0")),
    "no limit": ("usage", ("session", "list", "--limit", "all")),
    "setting without value": ("invalid_value", ("hypervisor", "add", "x", "--plugin", "images", "--set", "path")),
    "option twice": (
        "invalid_value",
        ("hypervisor", "add", "x", "--plugin", "images", "--set", "path=/", "--set", "path=/tmp"),
    ),
    "password file": ("file_unusable", ("credential", "add", "c", "--username", "u", "--password-file", "/no/file")),
    "verb": ("usage", ("job", "fly")),
    "noun": ("usage", ("jobs", "list")),
    "nothing": ("usage", ()),
    "output exists": ("output_refused", ("restore", "disk", "POINT", "disk.raw", "--output", "LAB/web/disk.raw")),
    "output is a directory": ("output_refused", ("restore", "disk", "POINT", "disk.raw", "--output", "OUT")),
    "no parent": ("invalid_value", ("restore", "disk", "POINT", "disk.raw", "--output", "OUT/no/x")),
    "parent is a file": (
        "invalid_value",
        ("restore", "disk", "POINT", "disk.raw", "--output", "LAB/web/disk.raw/x"),
    ),
    "empty output": ("output_refused", ("restore", "disk", "POINT", "disk.raw", "--output", "")),
}


@pytest.mark.parametrize("case", BAD)
def test_it_is_one_clear_error_and_nothing_is_changed(shared_line: Any, point: str, case: str) -> None:
    line = shared_line
    code, args = BAD[case]
    places = {"POINT": point, "OUT": str(line.out), "LAB": str(line.lab)}
    filled = []
    for argument in args:
        head, slash, rest = argument.partition("/")
        filled.append(places.get(head, head) + slash + rest)
    error = line.refused(code, *filled)
    assert error["message"]
    assert error["hint"]
    assert list(line.out.iterdir()) == []


def test_after_all_that_the_inventory_is_as_it_was(shared_line: Any, point: str) -> None:
    nouns = ("hypervisor", "repository", "job", "point", "credential")
    hypervisors, repositories, jobs, points, credentials = (shared_line.json(noun, "list") for noun in nouns)
    assert [one["name"] for one in hypervisors] == ["lab"]
    assert {one["name"] for one in repositories} == {"default", "main"}
    assert [(one["name"], one["next_run"]) for one in jobs] == [("nightly", None)]
    assert [one["point_id"] for one in points] == [point]
    assert credentials == []
    assert (shared_line.lab / "web" / "disk.raw").read_bytes() == b"content" * 1000


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vhdx"])
def test_no_format_overwrites_a_file_or_follows_a_link(
    shared_line: Any, point: str, tmp_path: Path, image_format: str
) -> None:
    existing = tmp_path / "existing"
    existing.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for output in (existing, link):
        shared_line.refused(
            *("output_refused", "restore", "disk", point, "disk.raw", "--output", output, "--format", image_format)
        )
    missing = tmp_path / "no" / "x"
    shared_line.refused(
        *("invalid_value", "restore", "disk", point, "disk.raw", "--output", missing, "--format", image_format)
    )
    assert existing.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["existing", "link"]


def test_for_people_an_error_is_two_lines(shared_line: Any) -> None:
    done = shared_line.vbr("job", "run", "nothing", exit_code=4)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: there is no job nothing",
        "hint: The matching 'list' command shows what there is.",
    ]
