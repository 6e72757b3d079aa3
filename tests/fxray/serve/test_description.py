"""What the interface says of itself holds for requests that schemathesis makes up.

Skipped where that is absent; `make test-page` has it.
"""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
CONFIG = """
[checks]
# Not every file is an image, and a description cannot say how large one may be.
positive_data_acceptance.expected-statuses = [200, 202, 204, 404, 413, 422, 429]
negative_data_rejection.expected-statuses = [400, 404, 405, 413, 415, 422]
"""


def test_answers_are_as_described_and_none_is_a_server_error(url, tmp_path):
    pytest.importorskip("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all", "--seed", "0",
        "--max-examples", "10", "--generation-database", "none", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
