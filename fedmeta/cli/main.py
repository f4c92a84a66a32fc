"""Entry point: runs the command, and turns errors into one line and an exit code."""

import signal
import sys
import traceback
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, NoReturn

import click
import typer

from fedmeta.cli import INTERRUPTED, commands
from fedmeta.cli.commands import DEBUG
from fedmeta.cli.help import App, plain
from fedmeta.cli.streams import MOST_SHOWN, LastingFile
from fedmeta.errors import FedmetaError
from fedmeta.files import one_line, to_json

_FIRST = ("run", "resume", "compare", "report", "serve", "adapt", "export", "list")
"""Commands that help lists first; the others follow by name."""
_COMMANDS = [module.name for module in iter_modules(commands.__path__)]

app = App(
    help="Federated meta-learning: run, resume, compare and report simulations of many clients.",
    name="fedmeta",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from fedmeta import __version__

        typer.echo(f"fedmeta {__version__}")
        raise typer.Exit


@app.callback()
def _fedmeta(
    shown: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Declare the options of `fedmeta` itself."""


for _name in (*_FIRST, *sorted(set(_COMMANDS) - set(_FIRST))):
    _module = import_module(f"{commands.__name__}.{_name}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name)(getattr(_module, _name, None) or getattr(_module, f"{_name}_"))


def main(arguments: list[str] | None = None, stdout: LastingFile | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad usage or config, 130 interrupted.

    Args:
        arguments: Words after the command name; None: those of this process.
        stdout: The file behind stdout, which records whether output was lost.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for polite in (signal.SIGTERM, signal.SIGHUP):
        # Started with nohup, the run should outlive its terminal.
        if polite == signal.SIGTERM or signal.getsignal(polite) != signal.SIG_IGN:
            signal.signal(polite, _terminate)
    # Shells start background jobs with SIGINT ignored, but a script that sends one means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = app(arguments, prog_name="fedmeta", standalone_mode=False)
        if code == INTERRUPTED:  # how typer reports Ctrl-C
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
        _complain(plain(error, arguments), arguments)
        code = error.exit_code
    except Exception as error:
        _complain_unexpected(error, arguments)
        code = FedmetaError.exit_code
    sys.stdout.flush()
    if stdout and stdout.lost:
        _complain(f"could not write all output to stdout: {stdout.lost.strerror}", [])
        code = code or FedmetaError.exit_code
    sys.exit(code or 0)


def _terminate(*_: object) -> NoReturn:
    # As after Ctrl-C, finished rounds are kept.
    raise KeyboardInterrupt


def _complain_unexpected(error: Exception, arguments: list[str]) -> None:
    """Report an unexpected error, in fedmeta or in a user's own part."""
    notes = getattr(error, "__notes__", [])
    if DEBUG in arguments or not notes:
        # A note says where the traceback was logged; without one, print it here.
        traceback.print_exception(error)
    _complain("; ".join([f"unexpected {type(error).__name__}: {error}", *notes]), arguments)


def _complain(message: str, arguments: list[str]) -> None:
    line = one_line(message, MOST_SHOWN)
    sys.stderr.write(f"fedmeta: {line}\n")
    if "--json" in arguments:
        sys.stdout.write(to_json({"status": "error", "error": line}) + "\n")
