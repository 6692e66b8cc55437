"""The command line: finds the command, imports only that one, catches errors once."""

from __future__ import annotations

import importlib
import sys
from typing import Final, NoReturn

import click

from tracer import __version__
from tracer.errors import NfsblameError
from tracer.report.sanitise import printable

# Name -> one-line help. The module tracer.commands.<name> is imported only when
# that command runs, so --help and --version load neither pyarrow nor bcc.
COMMANDS: Final = {
    "record": "Record what stalls NFS on this host into a capture.",
    "report": "Name the process behind each stall in one or more captures.",
    "prepare": "Compile for this kernel now, so that record starts at once in an incident.",
    "doctor": "Say what can be traced here, what would be missing, and the mend.",
    "schema": "Print the tables of a capture.",
}

# As shells say it: 128 + SIGINT.
_INTERRUPTED: Final = 130

EXIT_CODES: Final = """\
Exit codes: 0 done, 1 finding over --fail-on, 2 usage, 3 missing privilege,
4 this kernel cannot, 5 incomplete data."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"tracer.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from COMMANDS, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="nfsblame")
def cli() -> None:
    """Find out who is stalling your NFS.

    \b
    Example, on the server (and on a client, if you can) while it hangs:
      nfsblame record -o /var/tmp/nfs --duration 60
      nfsblame report /var/tmp/nfs
    """


def main() -> NoReturn:
    """Run the command line; the exit codes are those of ``errors.Exit``."""
    try:
        code = cli.main(prog_name="nfsblame", standalone_mode=False)
    except NfsblameError as error:
        click.echo(printable(f"nfsblame: {error}"), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        # Ctrl-C. click would exit with 1, which says that something was found.
        sys.exit(_INTERRUPTED)
    sys.exit(code or 0)
