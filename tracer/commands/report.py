"""``nfsblame report``: captures in, the verdict out."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from tracer.durations import parse_limit
from tracer.errors import Exit
from tracer.report.sanitise import sanitise

if TYPE_CHECKING:
    from tracer.blame import Analysis

Limit = tuple[int | None, float | None]


def _limit(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Limit | None:
    """Return ``(microseconds, None)`` or ``(None, share)``."""
    if value is None:
        return None
    try:
        return parse_limit(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("captures", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "brief", "json"]),
    default="text",
    show_default=True,
    help="For people, in five lines for people in a hurry, or for programs.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of standard output.",
)
@click.option(
    "--fail-on",
    callback=_limit,
    metavar="DURATION|PERCENT",
    help="Exit with 1 if a culprit accounts for this much stall time (2s) or share of it (10%).",
)
@click.option("--op", metavar="NAME", help="Count stalls of this operation only (WRITE, fsync).")
@click.option("--process", metavar="NAME|PID", help="Only those that this process waited for.")
@click.option("--mount", metavar="PATH", help="Only those on this mount of a client.")
@click.option("--client", metavar="ADDRESS|HOST", help="Only those of this client.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    captures: tuple[Path, ...],
    format_: str,
    output: Path | None,
    fail_on: Limit | None,
    **only: str | None,
) -> None:
    """Name the process behind each stall in CAPTURES.

    Give the captures of the server and of its clients together: they are joined by
    what they have in common, clocks need not agree. Needs no root.

    \b
    Examples:
      nfsblame report /var/tmp/nfs
      nfsblame report server/nfs client/nfs --format json -o report.json
      nfsblame report /var/tmp/nfs --fail-on 10%
    """
    from tracer.blame import analyse  # noqa: PLC0415 - keeps --help light
    from tracer.blame.selection import NothingSelected, Selection  # noqa: PLC0415
    from tracer.reader import read_captures  # noqa: PLC0415 - loads pyarrow

    try:
        analysis = analyse(read_captures(list(captures)), Selection(**only))
    except NothingSelected as error:
        raise click.UsageError(sanitise(str(error))) from error
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that has no such letters shows their numbers instead of failing.
            sys.stdout.reconfigure(errors="backslashreplace")
        _write(analysis, format_, sys.stdout)
    else:
        try:
            with output.open("w", encoding="utf-8") as file:
                _write(analysis, format_, file)
        except OSError as error:
            name = sanitise(str(output))
            raise click.UsageError(f"cannot write {name}: {error.strerror}") from error
    ctx.exit(_exit_code(analysis, fail_on))


def _write(analysis: Analysis, format_: str, file: IO[str]) -> None:
    # Each format loads what it needs and no more: rich is half of the start-up time.
    if format_ == "json":
        from tracer.report.document import as_json  # noqa: PLC0415

        file.write(as_json(analysis))
    elif format_ == "brief":
        from tracer.report.brief import brief  # noqa: PLC0415

        file.write("".join(f"{line}\n" for line in brief(analysis)))
    else:
        from tracer.report.text import console_for, render  # noqa: PLC0415

        render(analysis, console_for(file))


def _exit_code(analysis: Analysis, fail_on: Limit | None) -> Exit:
    """Return the exit code: a finding is certain even where the data is incomplete."""
    if fail_on is not None:
        limit_us, limit_share = fail_on
        for one in analysis.verdict.culprits:
            if limit_us is not None and one.stall_us >= limit_us:
                return Exit.FINDING
            if limit_share is not None and one.share >= limit_share:
                return Exit.FINDING
    return Exit.INCOMPLETE if analysis.incomplete else Exit.DONE
