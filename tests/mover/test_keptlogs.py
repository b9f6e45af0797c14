"""The last lines of a mover on another server: bounded, kept while it lives, given out once when it is gone."""

import subprocess
import sys
from pathlib import Path

from vbrcore.mover.keptlogs import LIMIT_BYTES, KeptLog, forget_log, left_logs, log_name


def test_only_what_nobody_holds_is_given_out(tmp_path: Path) -> None:
    assert list(left_logs(tmp_path / "log")) == []
    log = KeptLog(tmp_path / "log" / log_name("job", "session", 12, 3))
    log.add(b"one\n")
    log.add(b"two\n")
    assert list(left_logs(tmp_path / "log")) == []
    log.close()
    name = "job_session_12-3.jsonl"
    assert list(left_logs(tmp_path / "log")) == [(name, b"one\ntwo\n")]
    forget_log(tmp_path / "log", f"../log/{name}")
    assert list(left_logs(tmp_path / "log")) == [(name, b"one\ntwo\n")]
    forget_log(tmp_path / "log", name)
    forget_log(tmp_path / "log", name)
    assert list(left_logs(tmp_path / "log")) == []


def test_the_older_half_goes_and_no_line_is_cut(tmp_path: Path) -> None:
    log = KeptLog(tmp_path / "mover.jsonl")
    lines = [b"%06d %s\n" % (number, b"x" * 993) for number in range(3000)]
    for line in lines:
        log.add(line)
        assert (tmp_path / "mover.jsonl").stat().st_size <= LIMIT_BYTES
    kept = (tmp_path / "mover.jsonl").read_bytes()
    assert len(kept) >= LIMIT_BYTES // 2 - 2000
    assert b"".join(lines).endswith(kept)
    assert kept.startswith(b"00")
    log.add(b"y" * (3 * LIMIT_BYTES))
    assert (tmp_path / "mover.jsonl").stat().st_size <= LIMIT_BYTES
    log.remove()
    assert not (tmp_path / "mover.jsonl").exists()


def test_what_a_mover_logs_lies_there_when_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from vbrcore.mover.keptlogs import KeptLog;"
        "log = KeptLog(Path(sys.argv[1])); log.add(b'said\\n'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "log" / "a_b_1-1.jsonl"
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -9
    assert list(left_logs(path.parent)) == [(path.name, b"said\n")]


def test_a_name_holds_ids_only() -> None:
    assert log_name("../../x", "a/b\0c", 1, 2) == "x_abc_1-2.jsonl"
