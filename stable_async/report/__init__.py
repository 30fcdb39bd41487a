"""`report.html`: what became of a job, to look at: one file, no server, no outside links."""

from stable_async.report.page import MOST_ROWS, REPORT_NAME, write_report

__all__ = ["MOST_ROWS", "REPORT_NAME", "write_report"]
