"""The report of a run: tables, curves and a gallery in one HTML file, and the numbers as JSON."""

from fxray.report.page import Report, write_report

__all__ = ["Report", "write_report"]
