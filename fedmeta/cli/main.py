"""The entry point: finds the command, and turns every error of a user into one line and a code."""

import signal
import sys
import traceback
from importlib import import_module
from pkgutil import iter_modules
from typing import NoReturn

import click
import typer

from fedmeta.cli import INTERRUPTED, commands
from fedmeta.cli.commands import DEBUG
from fedmeta.cli.streams import MOST_SHOWN, LastingFile
from fedmeta.errors import FedmetaError
from fedmeta.files import one_line, to_json

_FIRST = ("run", "resume", "compare", "report", "serve", "adapt", "export", "list")
"""What help shows first; the others follow by name."""
_COMMANDS = [module.name for module in iter_modules(commands.__path__)]

app = typer.Typer(
    name="fedmeta",
    help="Federated meta-learning: launch multi-client simulations, resume them, measure them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name in (*_FIRST, *sorted(set(_COMMANDS) - set(_FIRST))):
    _module = import_module(f"{commands.__name__}.{_name}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name)(getattr(_module, _name, None) or getattr(_module, f"{_name}_"))


def main(arguments: list[str] | None = None, stdout: LastingFile | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad usage or config, 130 interrupted.

    Args:
        arguments: The words after the command's name; None: those of this process.
        stdout: The file behind stdout, which knows whether all could be written.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for polite in (signal.SIGTERM, signal.SIGHUP):
        # Whoever started us with nohup wants us to outlive a terminal.
        if polite == signal.SIGTERM or signal.getsignal(polite) != signal.SIG_IGN:
            signal.signal(polite, _terminate)
    # A shell starts background jobs with SIGINT ignored; a script that sends one means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = app(arguments, prog_name="fedmeta", standalone_mode=False)
        if code == INTERRUPTED:  # typer's way of passing on a Ctrl-C
            _complain("interrupted", arguments)
    except FedmetaError as error:
        _complain(str(error), arguments)
        code = error.exit_code
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), arguments)
        code = FedmetaError.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        code = error.exit_code
    except click.ClickException as error:
        hint = "; see `fedmeta --help`" if isinstance(error, click.UsageError) else ""
        _complain(error.format_message().rstrip(".") + hint, arguments)
        code = error.exit_code
    except Exception as error:
        _complain_unexpected(error, arguments)
        code = FedmetaError.exit_code
    sys.stdout.flush()
    if stdout and stdout.lost:
        _complain(f"not all could be written to stdout: {stdout.lost.strerror}", [])
        code = code or FedmetaError.exit_code
    sys.exit(code or 0)


def _terminate(*_: object) -> NoReturn:
    # A polite request to end is a Ctrl-C from another hand: finished rounds are kept.
    raise KeyboardInterrupt


def _complain_unexpected(error: Exception, arguments: list[str]) -> None:
    """Tell of a mistake of ours, or of a user's part, that nobody foresaw."""
    notes = getattr(error, "__notes__", [])
    if DEBUG in arguments or not notes:
        # The note says where the traceback was logged; without one this is the only place.
        traceback.print_exception(error)
    _complain("; ".join([f"unexpected {type(error).__name__}: {error}", *notes]), arguments)


def _complain(message: str, arguments: list[str]) -> None:
    line = one_line(message, MOST_SHOWN)
    sys.stderr.write(f"fedmeta: {line}\n")
    if "--json" in arguments:
        sys.stdout.write(to_json({"status": "error", "error": line}) + "\n")
