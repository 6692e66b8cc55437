"""How often nfsblame is right: scenarios played, their outcomes in one table. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from lablib.judge import Outcome

# In the order in which the table shows them: a wrong name is worse than none.
Grade = Literal["wrong", "missed", "off", "failed", "lost", "right"]
GRADES: Final[tuple[Grade, ...]] = ("wrong", "missed", "off", "failed", "lost", "right")
MEANINGS: Final[dict[Grade, str]] = {
    "wrong": "another culprit or cause was named first than is expected",
    "missed": "nobody was named",
    "off": "the right one, but not with the time or share expected",
    "failed": "nfsblame itself failed",
    "lost": "the lab lost a guest or could not do its work: no verdict",
    "right": "as expected",
}
# Misses that are about who and why, and not about how much.
_NAMING: Final = frozenset({"culprit", "cause", "host"})
_HEADINGS: Final = ("scenario", "kernel", "vers", "", "first culprit", "attributed", "unknown")


@dataclass(frozen=True)
class Row:
    """One scenario, played once."""

    scenario: str
    kernel: str
    vers: str
    grade: Grade
    culprit: str | None = None
    cause: str | None = None
    share: float | None = None
    attributed_us: int | None = None
    injected_us: int | None = None
    unknown_share: float | None = None
    notes: tuple[str, ...] = ()


def grade_of(outcome: Outcome) -> Grade:
    """Return how good a verdict is."""
    if not outcome.missed:
        return "right"
    if not any(miss.key in _NAMING for miss in outcome.missed):
        return "off"
    return "wrong" if outcome.culprit else "missed"


def row_of(scenario: str, kernel: str, vers: str, outcome: Outcome) -> Row:
    """Return the table's row of an outcome."""
    first = outcome.culprit or {}
    return Row(
        scenario,
        kernel,
        vers,
        grade_of(outcome),
        culprit=first.get("name"),
        cause=first.get("cause"),
        share=first.get("share"),
        attributed_us=outcome.attributed_us,
        injected_us=outcome.injected_us,
        unknown_share=outcome.unknown_share,
        notes=tuple(
            f"{miss.key}: expected {miss.expected}, got {miss.got}" for miss in outcome.missed
        ),
    )


def totals(rows: Iterable[Row]) -> dict[Grade, int]:
    """Return grade -> how many, of those that occur."""
    grades = [row.grade for row in rows]
    return {grade: grades.count(grade) for grade in GRADES if grade in grades}


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Return the rows, the worst first."""
    return sorted(rows, key=lambda row: (GRADES.index(row.grade), row.scenario, row.kernel))


def table(rows: Sequence[Row]) -> str:
    """Return the table as text, with the totals below."""
    lines: list[tuple[str, ...]] = [_HEADINGS]
    lines += [_cells(row) for row in ranked(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    text += [f"{row.scenario} {row.kernel}: {note}" for row in ranked(rows) for note in row.notes]
    counts = totals(rows)
    text += [f"{counts[grade]} of {len(rows)} {grade}: {MEANINGS[grade]}" for grade in counts]
    return "\n".join(text) + "\n"


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the table for programs."""
    return {"totals": totals(rows), "rows": [vars(row) for row in ranked(rows)]}


def _cells(row: Row) -> tuple[str, ...]:
    named = f"{row.culprit} ({row.cause}) {row.share:.0%}" if row.culprit else "-"
    unknown = "-" if row.unknown_share is None else f"{row.unknown_share:.1%}"
    return (row.scenario, row.kernel, row.vers, row.grade, named, _times(row), unknown)


def _times(row: Row) -> str:
    if row.attributed_us is None:
        return "-"
    attributed = f"{row.attributed_us / 1e6:.2f} s"
    if not row.injected_us:
        return attributed
    ratio = row.attributed_us / row.injected_us
    return f"{attributed} of {row.injected_us / 1e6:.2f} s ({ratio:.0%})"
