import json
import stat
from pathlib import Path

from vbrcore.manager.log import SessionLog, closing_line


def test_lines_carry_ids_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "job" / "session.jsonl"
    with SessionLog(path, job_id="j", session_id="s") as log:
        log.info("begins", machine="web")
        log.write("warning", "slow", kind="mover", task_id="t", pid=7)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["kind"], first["machine"], first["job_id"], first["session_id"]) == ("job-manager", "web", "j", "s")
    assert (second["level"], second["kind"], second["task_id"], second["pid"]) == ("warning", "mover", "t", 7)
    assert first["time"] <= second["time"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_closing_line_is_what_monitoring_looks_for() -> None:
    expected = "Job has been stopped successfully. Name: [nightly], JobId: [1-2]"
    assert closing_line(failed=False, name="nightly", job_id="1-2") == expected
    assert closing_line(failed=True, name="nightly", job_id="1-2").startswith("Job has stopped with failures.")
