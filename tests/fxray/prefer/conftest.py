import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from study_files import files, made, sources, store, study  # noqa: F401  fixtures
