"""Commands whose help pages describe their arguments.

typer 0.20 loses an argument's description under click 8.5, which writes such descriptions itself, and
escapes brackets for a markup that plain help pages do not have.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import CommandFunctionType


class _Formatter(click.HelpFormatter):
    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write terms and descriptions, with brackets as they are."""
        plain = [(term, text.replace(r"\[", "[")) for term, text in rows]
        super().write_dl(plain, col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


class Command(TyperCommand):
    """A command whose help page describes its arguments."""

    context_class = _Context

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        declared = inspect.signature(self.callback).parameters if self.callback else {}
        for one in self.params:
            if isinstance(one, TyperArgument):
                [argument] = declared[str(one.name)].annotation.__metadata__
                one.help = argument.help

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command's words; an error knows which command they were for."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options; typer would write the arguments a second time."""
        click.Command.format_options(self, ctx, formatter)


class App(typer.Typer):
    """A group of such commands.

    Args:
        help: What the group is for, in one line.
    """

    def __init__(self, help: str, **options: Any) -> None:
        # click suggests similar commands itself.
        super().__init__(help=help, no_args_is_help=True, suggest_commands=False, **options)

    def command(
        self, name: str | None = None, **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Return a decorator that makes a function a command."""
        return super().command(name, cls=Command, **options)


_PHRASES = (
    (r"(.+) is not in the range x>=(\S+)", r"must be at least \2 (got \1)"),
    (r"(.+) is not in the range (\S+)<=x<=(\S+)", r"must be between \2 and \3 (got \1)"),
    (r"(.+) is not a valid int.*", r"must be an integer (got \1)"),
    (r"(.+) is not a valid float.*", r"must be a number (got \1)"),
    (r"(.+) is not one of (.+)", r"must be one of \2 (got \1)"),
)
"""Click's messages about a value, and how config errors say the same."""


def plain(error: click.ClickException, arguments: Sequence[str] = ()) -> str:
    """Return the message of a command-line error, worded like a config error, and which page helps.

    Args:
        error: The error.
        arguments: The words after the command's name.
    """
    said = _worded(error, arguments)
    if not isinstance(error, click.UsageError):
        return said
    page = f"`{error.ctx.command_path if error.ctx else 'fedmeta'} --help`"
    return f"{said} See {page}" if said.endswith("?") else f"{said}; see {page}"


def _worded(error: click.ClickException, arguments: Sequence[str]) -> str:
    said = error.format_message().rstrip(".")
    said = re.sub(r"\. \(?Did you mean (.+?\?)\)?$", r": did you mean \1", said).replace(
        "one of:", "one of"
    )
    if isinstance(error, click.UsageError) and (meant := _meant(error, said, arguments)):
        return meant
    if found := re.fullmatch(r"Invalid value for '?(.+?)'?: (.+)", said):
        for phrase, ours in _PHRASES:
            if match := re.fullmatch(phrase, found[2]):
                return f"{found[1].strip('[]')}: {match.expand(ours)}"
    return said


def _meant(error: click.UsageError, said: str, arguments: Sequence[str]) -> str:
    """Return a message with advice if an argument looks like a setting or part of a list; else empty."""
    from fedmeta.config import Config

    takes_settings = error.ctx and any("--set" in one.opts for one in error.ctx.command.params)
    if isinstance(error, click.NoSuchOption) and takes_settings:
        key = error.option_name.lstrip("-").replace("-", "_")
        if key.split(".")[0] in Config.model_fields:
            return f"No such option '{error.option_name}': set a key with -s {key}=VALUE"
    if not (extra := re.fullmatch(r"Got unexpected extra arguments? \((.+)\)", said)):
        return ""
    if any(one.endswith(",") for one in arguments):
        return f"{said}: write a list without spaces, as a,b,c"
    if takes_settings and re.fullmatch(r"[\w.]+=.+", extra[1]):
        return f"{said}: set a key with -s {extra[1]}"
    if takes_settings and ("=" in arguments or any(one.endswith(("=", ":")) for one in arguments)):
        return f"{said}: write a setting without spaces, as -s rounds=5"
    return ""
