import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from plain_pool import pool_with  # noqa: F401  a fixture
