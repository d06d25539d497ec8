"""One self-contained HTML page per study: verdict first, then numbers, pictures, tests and sources."""

from kdstats.report.document import Report, render_report, write_report
from kdstats.report.drawing import Illustration

__all__ = ["Illustration", "Report", "render_report", "write_report"]
