"""Python reads this in every process of a Ray job whose working directory is this folder: the hook acts uninstalled."""

import fxray.torchvision_hook  # noqa: F401 - it acts when it is imported
