"""One module per library that this package integrates with, each behind an extra or used only where
that library is installed.
"""
