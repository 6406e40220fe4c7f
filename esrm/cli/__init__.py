"""The command line: git-like, each command the thin twin of a library call.

It decides what commands there are, and what their exit codes mean; both once, here. A command is one small module,
imported when it is used: ``esrm --help`` imports none of them, and no reading command starts an event loop.

Exit codes: 0 all is well; 1 a difference (``diff``), nobody (``blame``), never (``bisect``), as ``grep`` and ``diff``
have it, and a no to ``doctor --adopt``; 2 asked wrongly; 3 the store cannot be read, or is not what was written; 4
somebody else wrote first; 130 Ctrl-C.

Next: ``options.py``, what every command is asked with; ``output.py``, how every answer looks.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from esrm import __version__
from esrm.cli.options import Asked, common
from esrm.cli.output import printable
from esrm.errors import Conflict, Corrupt, Refused, StoreError

SECTIONS: dict[str, dict[str, str]] = {
    "The log": {
        "log": "List what happened, newest first.",
        "show": "Show one record in full, and what it changed.",
        "timeline": "Tell the life of one device.",
        "tail": "Show the last records, and follow new ones with -f.",
        "vms": "List the VMs in the store.",
    },
    "The layout": {
        "map": "Draw the address map, now or at any moment.",
        "tree": "Draw the device tree, with phases and resources.",
        "diff": "Compare the layouts at two moments.",
        "blame": "Say who holds an address, and since which record.",
        "bisect": "Find the record that first made something true.",
        "stats": "Count: how full, how many, what was refused.",
    },
    "The store": {
        "verify": "Check that the log is what was written.",
        "doctor": "Look at a log, and at the place that it is in.",
        "export": "Write all records as JSON lines or CSV.",
        "page": "Write the address map over time as one HTML page.",
        "import": "Record the layout of a real machine.",
    },
    "Proofs for others": {
        "keygen": "Make a key that signs checkpoints.",
        "checkpoint": "Sign what a VM's log is now.",
        "prove": "Write a receipt: one record, proven to be in the log.",
        "cosign": "Be a witness: sign that a log only grew.",
    },
    "esrm itself": {
        "demo": "Boot, fill, crash and explain a small VM.",
        "completion": "Print the completion script of a shell.",
    },
}
"""All commands, so that listing them imports none."""

_HELP = {name: text for commands in SECTIONS.values() for name, text in commands.items()}
_MODULES = {"import": "import_", "page": "page_command"}

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (Refused, 2),
    (Conflict, 4),
    (Corrupt, 3),
    (StoreError, 3),
    (click.ClickException, 2),
    (OSError, 2),  # a file to write, or a folder to read, that was named and cannot be
)
INTERRUPTED = 130


EPILOG = """\
\b
REV is a moment:   7                       a revision
                   @  @~3                  the head, and three before it
                   @{2026-11-22T07:00}     the last one at or before a time (UTC)
                   0199f3...               a record's id, in full
Exit codes:        0  well                 2  asked wrongly
                   1  diff: a difference   3  the store is unreadable or corrupt
                      blame: nobody        4  somebody else wrote first
                      bisect: never      130  interrupted (Ctrl-C)
                      doctor --adopt: no
Environment:       ESRM_STORE, ESRM_VM, ESRM_LOG_LIMIT ...: every option has a variable.
                   NO_COLOR is honoured.
"""


class LazyGroup(click.Group):
    """A group whose commands are modules of this package, imported when one of them is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the help."""
        return list(_HELP)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in _HELP:
            return None
        return import_module(f"esrm.cli.{_MODULES.get(cmd_name, cmd_name)}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with suggestions from the table."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=_HELP, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them by section."""
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:<10}", text) for name, text in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete a command's name from the table, or an option."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=text) for name, text in _HELP.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "ESRM",
        "max_content_width": 100,
    },
    epilog=EPILOG,
)
@common(vm=True, formats=False)
@click.version_option(__version__, "--version", "-V", message="esrm %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, asked: Asked) -> None:
    """The resources of virtual devices, as their log tells them."""
    # click itself does not know of https://no-color.org
    ctx.color = False if os.environ.get("NO_COLOR") else None


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` if none is given) and return its exit code; errors are said on stderr."""
    # As any tool in a pipe: when nobody reads on, end without a word. (Only a main thread may set this.)
    with suppress(ValueError):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return run(args)


def run(args: Sequence[str] | None = None) -> int:
    """The same inside a process that goes on: ``demo`` shows other commands with it."""
    try:
        code = cli.main(args, prog_name="esrm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.Abort:
        return INTERRUPTED
    except tuple(kind for kind, _ in EXIT_CODES) as error:
        _say(error)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    return code if isinstance(code, int) else 0


def _say(error: BaseException) -> None:
    message = str(error)
    if isinstance(error, click.ClickException):
        message = error.format_message().replace("\n\t", " ")  # click lists the choices below one another
    click.echo(f"esrm: {printable(message)}", err=True)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
