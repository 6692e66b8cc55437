"""The report for people: the verdict first, then what it rests on.

Everything is built from ``Text`` objects, never from markup, and every string of a
capture goes through ``sanitise``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tracer.blame import Analysis
from tracer.blame.context import belongs_to
from tracer.blame.stalls import Stall
from tracer.blame.units import human_us, percent, utc
from tracer.blame.verdict import Blamed, VictimShare
from tracer.losses import explained
from tracer.model import HostCapture
from tracer.report.notes import notes
from tracer.report.sanitise import sanitise
from tracer.report.sparkline import bounds, sparkline

_WIDTH_WITHOUT_TERMINAL: Final = 100
_MAX_VICTIMS: Final = 8
_MAX_IN_FLIGHT: Final = 12
_MAX_LATENCY: Final = 40
_MAX_COUNTS: Final = 20
_MAX_NOTES: Final = 20
# Ledger lines below this share of their operation are summed up.
_MIN_LEDGER_SHARE: Final = 0.001

Cell = str | Text


def console_for(file: IO[str], width: int | None = None) -> Console:
    """Return a console that interprets nothing in what is printed to it."""
    if width is None and not file.isatty():
        width = _WIDTH_WITHOUT_TERMINAL
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def render(analysis: Analysis, console: Console) -> None:
    """Print the whole report."""
    _verdict(analysis, console)
    for one in analysis.verdict.culprits:
        _culprit(one, console)
    _cleared(analysis, console)
    _in_flight(analysis, console)
    _ledger(analysis, console)
    _latency(analysis, console)
    _counts(analysis, console)
    _hosts(analysis, console)
    _quality(analysis, console)


def _text(value: object, style: str = "") -> Text:
    return Text(sanitise(str(value)), style=style)


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _lines(console: Console, lines: Iterable[Cell]) -> None:
    for line in lines:
        text = line if isinstance(line, Text) else _text(line)
        console.print(Padding(text, (0, 0, 0, 2), expand=False))


def _table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Cell]], numbers: Sequence[str]
) -> None:
    """Print a table; columns named in ``numbers`` are set flush right and never cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        number = name in numbers
        table.add_column(
            Text(name, style="dim"),
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else _text(cell) for cell in row))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _verdict(analysis: Analysis, console: Console) -> None:
    verdict = analysis.verdict
    console.print(_text(verdict.summary, "bold green" if verdict.clear else "bold red"))
    if words := analysis.only.words():
        console.print(_text(f"Counted are stalls with {words} only.", "yellow"))
    for text in analysis.incomplete:
        console.print(_text(f"Incomplete data: {text}", "yellow"))
    for text in verdict.advice:
        console.print(_text(f"What to do first: {text}"))


def _culprit(one: Blamed, console: Console) -> None:
    _heading(console, f"Culprit {one.rank}")
    key = one.culprit.process
    words = [f"pid {key.pid}"] if key else []
    words += belongs_to(one.process)
    pid = f" ({', '.join(words)})" if words else ""
    where = f" on {one.culprit.host}" if one.culprit.host else ""
    title = _text(f"{one.culprit.name}{pid}{where}", "bold")
    title.append_text(
        _text(
            f"  {one.cause}: {human_us(one.stall_us)} of stall time, {percent(one.share)}, "
            f"{one.operations} operations"
        )
    )
    _lines(console, [title])
    facts = [
        ("product", one.product),
        ("executable", one.exe),
        ("command line", one.process.command_line if one.process else None),
        ("works for", one.works_for),
        ("waited for directly", human_us(one.direct_us) if one.direct_us else None),
        ("chain", _chain(one)),
    ]
    _lines(console, (f"{name}: {value}" for name, value in facts if value))
    _lines(console, (f"- {line}" for line in one.evidence))
    rows = list(_victims(one))
    numbers = ("pid", "operations", "stalled")
    _table(console, ("victim on", "process", *numbers), rows[:_MAX_VICTIMS], numbers)
    if len(rows) > _MAX_VICTIMS:
        _lines(console, [f"and {len(rows) - _MAX_VICTIMS} more"])


def _victims(one: Blamed) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the victims' table: processes of one name on one host are one row."""
    groups: dict[tuple[str, str | None], list[VictimShare]] = {}
    for share in one.victims:
        groups.setdefault((share.victim.host, share.victim.comm), []).append(share)
    stalled = {key: sum(share.stall_us for share in shares) for key, shares in groups.items()}
    for key in sorted(groups, key=lambda key: -stalled[key]):
        shares = groups[key]
        pid = str(shares[0].victim.pid or "-")
        yield (
            key[0],
            f"{key[1] or '-'}{_belongs(shares)}",
            pid if len(shares) == 1 else f"{len(shares)} processes",
            str(sum(share.operations for share in shares)),
            human_us(stalled[key]),
        )


def _belongs(shares: Sequence[VictimShare]) -> str:
    """Return in brackets where processes of one name belong, if all belong there."""
    places = {tuple(belongs_to(share.process, share.volumes)) for share in shares}
    words = places.pop() if len(places) == 1 else ()
    return f" ({', '.join(words)})" if words else ""


def _chain(one: Blamed) -> str:
    if len(one.chain) < 2:
        return ""
    links = (
        f"{item.link.name} ({item.link.cause}, {human_us(item.stall_us)})" for item in one.chain
    )
    return "operation <- " + " <- ".join(links)


def _cleared(analysis: Analysis, console: Console) -> None:
    if analysis.verdict.cleared:
        _heading(console, "Cleared")
        _lines(console, (f"{one.suspect}: {one.figures}" for one in analysis.verdict.cleared))


def _in_flight(analysis: Analysis, console: Console) -> None:
    stuck = analysis.in_flight
    if not stuck:
        return
    _heading(console, "Still in flight when recording ended")
    rows = [
        (
            stall.victim.host,
            stall.victim.comm or "-",
            stall.operation.nfs_op or stall.operation.op,
            ("" if stall.operation.begin_known else "at least ") + human_us(stall.wall_us),
            _waits_for(stall),
        )
        for stall in stuck[:_MAX_IN_FLIGHT]
    ]
    _table(console, ("on", "process", "operation", "since", "waits for"), rows, ("since",))
    if len(stuck) > _MAX_IN_FLIGHT:
        _lines(console, [f"and {len(stuck) - _MAX_IN_FLIGHT} more"])


def _waits_for(stall: Stall) -> str:
    charge = max(stall.bill, key=lambda one: stall.bill[one], default=None)
    if charge is None:
        return "-"
    if charge.chain:
        return " <- ".join(f"{link.name} ({link.cause})" for link in charge.chain)
    return charge.cause


def _ledger(analysis: Analysis, console: Console) -> None:
    if not analysis.ledger:
        return
    _heading(console, "Where the time of slow operations went")
    rows = [
        (
            row.side,
            row.op,
            row.cause,
            human_us(row.total_us),
            percent(row.share),
            human_us(row.queued_us) if row.queued_us else "-",
        )
        for row in analysis.ledger
        if row.share >= _MIN_LEDGER_SHARE
    ]
    columns = ("side", "operation", "cause", "time", "share", "of it in queue")
    _table(console, columns, rows, columns[3:])


def _latency(analysis: Analysis, console: Console) -> None:
    if not analysis.latency:
        return
    _heading(console, "Latency per operation")
    lines = analysis.latency[:_MAX_LATENCY]
    low, high = bounds(line.counts for line in lines)
    ascii_only = not console.encoding.lower().startswith("utf")
    rows = [
        (
            line.side,
            line.layer,
            line.op,
            str(line.count),
            human_us(line.p50_us),
            human_us(line.p99_us),
            human_us(line.max_us),
            f"|{sparkline(line.counts, low, high, ascii_only=ascii_only)}|",
        )
        for line in lines
    ]
    scale = f"{human_us(1 << low)} .. {human_us(1 << (high + 1))}"
    columns = ("side", "layer", "operation", "count", "p50", "p99", "max", scale)
    _table(console, columns, rows, columns[3:7])
    if len(analysis.latency) > _MAX_LATENCY:
        _lines(console, [f"and {len(analysis.latency) - _MAX_LATENCY} more"])


def _counts(analysis: Analysis, console: Console) -> None:
    rows = [
        (
            capture.host,
            row.side,
            row.kind.replace("_", " "),
            row.op or "-",
            "-" if row.status is None else str(row.status),
            row.peer or "-",
            str(row.count),
        )
        for capture in analysis.captures
        for row in capture.counts
    ]
    if not rows:
        return
    _heading(console, "What happened besides")
    columns = ("host", "side", "what", "operation", "status", "peer", "count")
    _table(console, columns, rows[:_MAX_COUNTS], columns[6:])
    if len(rows) > _MAX_COUNTS:
        _lines(console, [f"and {len(rows) - _MAX_COUNTS} more"])


def _hosts(analysis: Analysis, console: Console) -> None:
    _heading(console, "Hosts")
    for capture in analysis.captures:
        _lines(console, _host(capture))


def _host(capture: HostCapture) -> Iterator[Cell]:
    sides = " and ".join(capture.sides) or "no NFS"
    seconds = (capture.end - capture.start).total_seconds()
    yield (
        f"{capture.host}: {sides}, kernel {capture.kernel}, recorded {utc(capture.start)} "
        f"for {human_us(max(0.0, seconds) * 1e6)}, threshold {human_us(capture.threshold_us)}"
    )
    happened = notes(capture)
    for event in happened[:_MAX_NOTES]:
        yield _text(f"  {utc(event.ts)} {event.text}", "yellow")
    if len(happened) > _MAX_NOTES:
        yield f"  and {len(happened) - _MAX_NOTES} more changes of mounts, exports and the like"
    for probe in capture.probes:
        if not probe.attached:
            lost = f"; lost: {probe.lost}" if probe.lost else ""
            yield _text(f"  missing probe {probe.probe}: {probe.reason or 'unknown'}{lost}", "dim")


def _quality(analysis: Analysis, console: Console) -> None:
    _heading(console, "Losses and own overhead")
    lost = [explained(name, count) for name, count in sorted(analysis.losses.items()) if count]
    _lines(console, [f"lost: {one}" for one in lost] or ["lost: nothing"])
    for capture in analysis.captures:
        figures = ", ".join(
            f"{name} {value:.4g}" for name, value in sorted(capture.overhead.items())
        )
        if figures:
            _lines(console, [f"{capture.host}: {figures}"])
