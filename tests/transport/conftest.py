"""A repository and the work of a target mover, for processes that are killed and stopped."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vbrcore.model.place import Place
from vbrcore.model.times import Timing
from vbrcore.mover.messages import TargetWork
from vbrcore.storage.repository import create_repository
from vbrcore.testing.sshd import Sshd

SHORT = Timing(heartbeat_s=0.2, silence_s=1.5)


@pytest.fixture
def timing() -> Timing:
    return SHORT


@pytest.fixture
def target_work(tmp_path: Path) -> TargetWork:
    repository_id = str(uuid.uuid4())
    create_repository(tmp_path / "repository", repository_id)
    return TargetWork(
        place=Place(str(tmp_path / "repository")),
        repository_id=repository_id,
        reserve_bytes=0,
        directory="job",
        job_id=str(uuid.uuid4()),
        job_name="nightly",
        session_id=str(uuid.uuid4()),
        created=time.time(),
        block_size_bytes=1024 * 1024,
        index_directory=str(tmp_path / "cache"),
    )


@pytest.fixture
def gone() -> Callable[..., bool]:
    """`gone(pid, ...)`: wait until none of these processes lives (a zombie does not); False after 20 s."""

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def wait(*pids: int) -> bool:
        deadline = time.monotonic() + 20
        while any(map(alive, pids)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    return wait


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give an empty directory whose path is short enough for sockets, and open to other accounts."""
    path = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def sshd(short_path: Path) -> Iterator[Sshd]:
    with Sshd(short_path / "sshd") as running:
        yield running
