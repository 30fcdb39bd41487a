"""All commands, and how their errors look."""

import asyncio
import re
from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnknownOptionError, UnusedCliTokensError

from stable_async._version import __version__
from stable_async.cli.defaults import NAME, Defaults, split_profile
from stable_async.cli.exit_status import CANNOT_WORK, INTERRUPTED, OK, WRONG_USAGE, UsageError
from stable_async.cli.options import option_text
from stable_async.errors import StabilityError

__all__ = ["COMMANDS", "make_app", "run"]

# For Cyclopts' message about an option or an argument that is missing.
MISSING = r"\1: \2 is missing, or has no value; see stable-async \1 --help"

# Where each command is, and its line in the list of commands: the first paragraph of its own
# docstring. A command's module is imported when it is called: importing all of them takes twice as
# long as the rest of `--help`.
COMMANDS = {
    "run": (
        "run_job:run",
        "Make an image for every prompt in a file. A later run makes only what is missing.",
    ),
    "generate": ("generate:app", "Make one image, audio or model."),
    "results": ("results:app", "Fetch the result of a paid generation."),
    "estimate": (
        "estimate:estimate",
        "Print requests, credits, dollars and the minimum time under the quota.",
    ),
    "export": (
        "export:export",
        "Write the images of a job as a data set, with a card that describes it.",
    ),
    "report": (
        "report:report",
        "Write report.html: the images, requests, failures and costs of a job.",
    ),
    "status": (
        "status:status",
        "Print the progress of a job, running or not, from its ledger.",
    ),
    "balance": (
        "balance:balance",
        "Print the credits of the account. The API's figure lags behind recent charges.",
    ),
    "doctor": (
        "doctor:doctor",
        "Check key, network, quota and machine; with --probe, compare the API with the facts.",
    ),
    "completion": (
        "completion:completion",
        "Print the completion script of a shell.",
    ),
    "sandbox": (
        "sandbox:sandbox",
        "Serve the API on this machine, without a key and without cost, until Ctrl-C.",
    ),
}

# Cyclopts would call an argument that may be left out ARGS.
USAGE = {
    "run": "[PROMPTS] --out DIR [OPTIONS]",
    "estimate": "[PROMPTS] [OPTIONS]",
    "report": "DIR... [OPTIONS]",
    "status": "DIR... [OPTIONS]",
}

# Commands that send paid requests.
PAYING = ("run", "generate", "doctor")


def make_app(called: str | None = None, defaults: Defaults | None = None) -> App:
    """Return the app with all commands.

    Args:
        called: The command that is called, and whose help may be asked for.
        defaults: Defaults of options.
    """
    app = App(
        name="stable-async",
        help="Images, audio and 3D models from the Stability AI API: one, or a million.",
        version=__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        config=None if defaults is None else defaults.config,
    )
    for name, (place, summary) in COMMANDS.items():
        listed = None if name == called else summary
        usage = {"usage": f"Usage: stable-async {name} {USAGE[name]}"} if name in USAGE else {}
        app.command(f"stable_async.cli.{place}", name=name, help=listed, **usage)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    called = None
    try:
        arguments, profile = split_profile(arguments)
        called = arguments[0] if arguments else None
        defaults = Defaults(profile, COMMANDS)
        if called in defaults.commands:
            # Defaults that change what is bought are reported.
            _print(f"{NAME}: defaults for {called}{f', profile {profile}' if profile else ''}")
        status = make_app(called, defaults)(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except (CycloptsError, UsageError) as error:
        return _complain(_one_line(error, called), WRONG_USAGE)
    except StabilityError as error:
        from stable_async.jobs.errors import ImagesURLError, JobChangedError, PromptFileError

        if isinstance(error, ImagesURLError):
            return _complain(option_text(error), WRONG_USAGE)
        wrong = isinstance(error, PromptFileError | JobChangedError)
        return _complain(str(error), WRONG_USAGE if wrong else CANNOT_WORK)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", CANNOT_WORK)
    except (KeyboardInterrupt, asyncio.CancelledError):
        billed = "aborted; what was in flight may have been billed"
        return _complain(billed if called in PAYING else "interrupted", INTERRUPTED)
    return status if isinstance(status, int) else OK


def _one_line(error: Exception, called: str | None) -> str:
    reads_prompts = called in {"run", "estimate"}
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        first, *more = error.unused_tokens
        others = f" and {len(more):,} more" if more else ""
        # The shell replaces a pattern by the names that match it.
        hint = "; quote a pattern: 'photos/*.jpg'" if reads_prompts else ""
        return f"{called}: {first!r}{others}: not expected{hint}"
    text = " ".join(str(error).split())
    if isinstance(error, UnknownOptionError) and reads_prompts:
        from stable_async.jobs.columns import ALL_FIELDS

        option = (error.token.keyword or error.token.value).partition("=")[0]
        field = option.removeprefix("--").replace("-", "_")
        if field in ALL_FIELDS:
            return f"Unknown option: {option}. For all rows: --set {field}=VALUE"
    return re.sub(r'^Command "(.+)" parameter (\S+) requires an argument\.$', MISSING, text)


def _complain(message: str, status: int) -> int:
    _print(f"stable-async: {message}")
    return status


def _print(message: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)
