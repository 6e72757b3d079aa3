import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from browser import browser, page, url  # noqa: F401  fixtures
from fake_service import backend, make_service  # noqa: F401  fixtures
