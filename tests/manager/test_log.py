import json
import stat
import time
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


def test_a_line_of_another_server_stands_in_time_order(tmp_path: Path) -> None:
    with SessionLog(tmp_path / "job" / "session.jsonl", job_id="job", session_id="session") as log:
        now = time.time()
        log.write("info", "said earlier", kind="mover", server="far", at=now - 5)
        log.info("now")
        log.write("info", "arrived late", kind="mover", server="far", at=now - 3)
        log.write("info", "its clock is ahead", kind="mover", server="far", at=now + 1000)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    assert times[0] == now - 5
    assert times[-1] <= time.time()
    assert [line.get("server", "") for line in lines] == ["far", "", "far", "far"]


def test_what_a_mover_left_lies_beside_the_log_of_its_session(tmp_path: Path) -> None:
    (tmp_path / "old-job").mkdir()
    with SessionLog(tmp_path / "job" / "session.jsonl", job_id="job", session_id="session") as log:
        kept = log.keep_left("far", "old-job_old-session_12-3.jsonl", b"{}\n")
        assert kept == tmp_path / "old-job" / "old-session_12-3.far.cut-off.jsonl"
        assert kept.read_bytes() == b"{}\n"
        assert kept.stat().st_mode & 0o777 == 0o600
        for name in ("../../../x_y.jsonl", "gone_s_1-1.jsonl", ".jsonl", ""):
            assert log.keep_left("far", name, b"").parent == tmp_path / "job"
