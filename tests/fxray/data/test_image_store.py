"""Images that have no room leave nothing half-written behind."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from fxray.data.image_store import ImageStore

FULL = """
import resource, sys
from pathlib import Path
from fxray.data.image_store import ImageStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = ImageStore(Path(sys.argv[1]))
store.put(bytes(1000), "png")
store.put(bytes(1001), "png")
"""


def test_an_image_that_has_no_room_is_one_clear_error(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"ResourceError: {tmp_path}/images/" in done.stderr
    assert ".png: cannot be written: File too large" in done.stderr
    assert [file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()] == [1000]


def test_what_a_killed_process_of_the_same_number_left_aside_keeps_no_image_out(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"image").hexdigest()
    left = tmp_path / "images" / digest[:2] / f".{digest}.{os.getpid()}.tmp"
    left.mkdir(parents=True)  # not even root writes to a folder, as nobody else does to a file that is read-only
    assert (tmp_path / ImageStore(tmp_path).put(b"image", "png")).read_bytes() == b"image"
    assert [path.name for path in left.parent.iterdir() if path.is_file()] == [f"{digest}.png"]
