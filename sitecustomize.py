"""Python reads this in every process of a Ray job whose working directory is this folder: the hook acts uninstalled.

The hook is loaded from its file, for a start must not settle which fxray is imported later.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

NAME = "fxray_torchvision_hook"
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fxray", "torchvision_hook.py")

if NAME not in sys.modules and (spec := spec_from_file_location(NAME, FILE)) and spec.loader:
    module = sys.modules[NAME] = module_from_spec(spec)
    spec.loader.exec_module(module)
