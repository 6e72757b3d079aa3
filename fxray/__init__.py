"""fxray: training, evaluation and use of a detector that says whether, where and why an image looks generated."""

__version__ = "0.1.0"
