"""An older catalog becomes one of this version and keeps what it holds."""

import sqlite3
from pathlib import Path

import pytest

from vbrcore.catalog import schema
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.job import Fulls
from vbrcore.model.retention import Retention


def test_jobs_of_the_first_version_keep_what_new_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        Catalog.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "catalog.db") as connection:
        connection.execute(
            "INSERT INTO jobs (job_id, name, hypervisor_id, repository_id, machines, exclude, block_size_bytes,"
            " compression, quiesce, machine_retries, schedule)"
            """ VALUES ('j', 'nightly', 'h', 'r', '["*"]', '[]', 1048576, 'fast', 0, 3, '{"kind":"none"}')"""
        )
    connection.close()
    catalog = Catalog.open(tmp_path)
    try:
        assert catalog.job_by_name("nightly").retention == Retention()
        catalog.update_job("j", retention=Retention(keep_points=5))
        assert catalog.job("j").retention.keep_points == 5
        assert catalog.clock_seen() is None
        job = catalog.job("j")
        assert (job.directory, job.per_machine, job.fulls, job.is_copy) == ("", False, Fulls(), False)
    finally:
        catalog.close()
