"""Images that have no room leave nothing half-written behind."""

import subprocess
import sys
from pathlib import Path

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
