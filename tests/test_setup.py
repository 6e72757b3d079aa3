"""`scripts/setup`, what it says before it installs anything."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_another_system_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for name in ("scripts/setup", "constraints/cpu.txt"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    uname = tmp_path / "bin" / "uname"
    uname.parent.mkdir()
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    env = {**os.environ, "PATH": f"{uname.parent}:{os.environ['PATH']}"}
    command = [tmp_path / "scripts" / "setup"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert "fxray needs Linux; this is Darwin" in done.stderr
    assert "docker run" in done.stderr
    assert not (tmp_path / ".venv").exists()
