"""`python -m fxray` is the command line `fxray`."""

import os
import sys
from contextlib import suppress
from pathlib import Path

with suppress(FileNotFoundError):  # a folder that was deleted meanwhile
    if sys.path[0] == os.getcwd() and not Path("fxray/__init__.py").exists():  # noqa: PTH109 - as Python writes it
        sys.path.append(sys.path.pop(0))  # a module there has no precedence, as it has none for `fxray`

from fxray.cli import main

if __name__ == "__main__":
    main()
