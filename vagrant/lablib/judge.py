"""Compares a report with what the scenario expects. Pure: a report in, an outcome out."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from lablib.scenario import Also, Expect

Report = dict[str, Any]
# Below this, scheduling in a slow guest decides more than what was injected.
LEAST_TOLERANCE_US = 50_000


@dataclass(frozen=True)
class Miss:
    """One expectation that the report does not meet."""

    key: str
    expected: str
    got: str


@dataclass(frozen=True)
class Outcome:
    """What `lab run` prints and writes."""

    culprit: dict[str, Any] | None
    attributed_us: int | None
    injected_us: int | None
    unknown_share: float | None
    losses: dict[str, int]
    missed: list[Miss]

    def result(self) -> str:
        """The verdict on the verdict."""
        return "FAIL" if self.missed else "PASS"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {"result": self.result(), **asdict(self)}


def judge(expect: Expect, report: Report, injected_us: int | None) -> Outcome:
    """Every expectation against the report's first culprit."""
    culprits = report["verdict"]["culprits"]
    first = culprits[0] if culprits else None
    attributed = first.get("direct_us", first["stall_us"]) if first else None
    checks = [
        check_culprit(expect, first, report["verdict"]["clear"]),
        check_field(expect.cause, first, "cause"),
        check_field(expect.host, first, "host"),
        check_share(expect, first),
        check_injected(expect, attributed, injected_us),
        check_also(expect.also, culprits[1:]),
    ]
    return Outcome(
        culprit=first,
        attributed_us=attributed,
        injected_us=injected_us,
        unknown_share=unknown_share(report),
        losses=report.get("losses", {}),
        missed=[miss for miss in checks if miss],
    )


def check_culprit(expect: Expect, first: dict[str, Any] | None, clear: bool) -> Miss | None:
    """The first culprit's whole name; "" asks for a clear verdict."""
    name = first["name"] if first else "no culprit"
    if expect.culprit is None:
        return None
    if expect.culprit == "":
        met = clear and first is None
        return (
            None
            if met
            else Miss("culprit", "a clear verdict", name if clear else f"{name}, not clear")
        )
    met = first is not None and re.fullmatch(expect.culprit, name) is not None
    return None if met else Miss("culprit", expect.culprit, name)


def check_field(wanted: str | None, first: dict[str, Any] | None, key: str) -> Miss | None:
    """A plain field of the first culprit."""
    got = first[key] if first else "no culprit"
    return None if wanted in (None, got) else Miss(key, str(wanted), got)


def check_share(expect: Expect, first: dict[str, Any] | None) -> Miss | None:
    """The first culprit's share of the stall time."""
    got = first["share"] if first else 0.0
    if expect.min_share is None or got >= expect.min_share:
        return None
    return Miss("min_share", f"{expect.min_share:.3f}", f"{got:.3f}")


def check_injected(expect: Expect, attributed: int | None, injected: int | None) -> Miss | None:
    """The time attributed, against the truth."""
    if expect.injected_us is None:
        return None
    if injected is None:
        return Miss("injected_us", f"an integer in {expect.injected_us}", "nothing to read")
    allowed = max(expect.tolerance * injected, LEAST_TOLERANCE_US)
    if attributed is not None and abs(attributed - injected) <= allowed:
        return None
    return Miss("injected_us", f"{injected} within {allowed:.0f}", str(attributed))


def check_also(wanted: list[Also], further: list[dict[str, Any]]) -> Miss | None:
    """The culprits after the first, in the order in which they are wanted."""
    left = iter(further)
    for also in wanted:
        if not any(is_it(also, culprit) for culprit in left):
            got = ", ".join(f"{one['name']} ({one['cause']}) {one['share']:.3f}" for one in further)
            return Miss("also", words(also), got or "nobody else")
    return None


def is_it(also: Also, culprit: dict[str, Any]) -> bool:
    """Whether a culprit is the one wanted, with the share wanted."""
    return (
        re.fullmatch(also.culprit or ".*", culprit["name"]) is not None
        and also.cause in (None, culprit["cause"])
        and culprit["share"] >= (also.min_share or 0.0)
    )


def words(also: Also) -> str:
    """A culprit that is wanted, in words."""
    return f"{also.culprit or 'anyone'} ({also.cause or 'any cause'}) {also.min_share or 0:.3f}"


def unknown_share(report: Report) -> float | None:
    """The ledgers' time without a cause, over all of it."""
    rows = report.get("ledger", [])
    total = sum(row["total_us"] for row in rows)
    unknown = sum(row["total_us"] for row in rows if row["cause"] == "unknown")
    return unknown / total if total else None
