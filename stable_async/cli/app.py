"""The commands together, and how their errors look."""

import asyncio
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from stable_async._version import __version__
from stable_async.cli import balance, estimate, export, generate, report, run_job, sandbox
from stable_async.cli.failures import CANNOT_WORK, INTERRUPTED, OK, WRONG_USAGE, UsageError
from stable_async.errors import StabilityError

__all__ = ["app", "run"]

app = App(
    name="stable-async",
    help="Pictures from the Stability AI API: one, or a million.",
    version=__version__,
    help_format="plaintext",
)
app.command(run_job.run, name="run")
app.command(generate.app)
app.command(estimate.estimate)
app.command(export.export)
app.command(report.report)
app.command(balance.balance)
app.command(sandbox.sandbox)


def run(arguments: Sequence[str]) -> int:
    """Run a command; give its exit status."""
    try:
        status = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except (CycloptsError, UsageError) as error:
        return _complain(_one_line(error), WRONG_USAGE)
    except StabilityError as error:
        return _complain(str(error), CANNOT_WORK)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", CANNOT_WORK)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _complain("given up; what was in flight may have been billed", INTERRUPTED)
    return status if isinstance(status, int) else OK


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _complain(message: str, status: int) -> int:
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"stable-async: {message}", markup=False
    )
    return status
