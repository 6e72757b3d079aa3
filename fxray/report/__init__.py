"""The report of a run: tables, curves and a gallery in one HTML file, and the numbers as JSON."""

from fxray.report.page import write_report

__all__ = ["write_report"]
