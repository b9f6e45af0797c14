"""Points that stand in several generations: each is one point, and any copy of what it needs will do."""

import subprocess
import sys
from pathlib import Path

from vbrcore.backupfile.codec import digest
from vbrcore.chain.reader import ChainReader
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

EXTRACTOR = Path(__file__).resolve().parents[2] / "extras" / "vbf_extract.py"
SIZE = kit.size_of(3)
IMAGE = {0: kit.content(1), 2: kit.content(2)}


def test_a_point_that_a_synthetic_full_took_over_is_extracted(tmp_path: Path) -> None:
    storage = MemoryStorage()
    writer = kit.open_writer(storage, tmp_path / "index")
    point_id = kit.send_point(writer, IMAGE, SIZE).point_id
    writer.synthetic_full("clone")
    writer.seal()
    with ChainReader.open(storage, kit.DIRECTORY) as reader:
        location = reader.find(digest(IMAGE[2]))
        assert location is not None
    newest = next(name for name in storage.list("") if name.endswith("_2.full.vbf"))
    storage.files[newest][location.offset + 100] ^= 1  # the older generation has it still
    for name in storage.list(f"{kit.DIRECTORY}/"):
        if name.endswith(".vbf"):
            (tmp_path / Path(name).name).write_bytes(storage.files[name])
    output = tmp_path / "disk.raw"
    options = ["--point", point_id[:8], "--disk", "d0", "--output", str(output)]
    subprocess.run([sys.executable, str(EXTRACTOR), "extract", str(tmp_path), *options], check=True)
    assert output.read_bytes() == IMAGE[0] + bytes(kit.BLOCK) + IMAGE[2]
    listed = subprocess.run(
        [sys.executable, str(EXTRACTOR), "list", str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert listed.stdout.count(point_id) == 1
    assert "  full  " in listed.stdout
