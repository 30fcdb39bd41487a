"""`report.html`: a page about a job, in one file without a server or outside links."""

from stable_async.report.page import MOST_ROWS, REPORT_NAME, write_report

__all__ = ["MOST_ROWS", "REPORT_NAME", "write_report"]
