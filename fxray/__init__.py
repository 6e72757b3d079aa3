"""fxray: training, evaluation and use of a detector that says whether, where and why an image looks generated."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fxray.detect.detection import Detection
    from fxray.detect.detector import Detector

__all__ = ["Detection", "Detector", "__version__"]
_HOMES = {"Detector": "fxray.detect.detector", "Detection": "fxray.detect.detection"}


def __getattr__(name: str) -> Any:
    """`from fxray import Detector`: found when asked for, so that `import fxray` stays light."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
