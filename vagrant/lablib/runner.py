"""`lab run`: a fresh lab, a scenario played in it, nfsblame's report judged."""

import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lablib import lab, places, play, scenario, score, tools, wheels
from lablib.errors import LabError, LostGuest, ProductError
from lablib.judge import Outcome, Report, judge

# Of `nfsblame report`: done, finding, incomplete data. Each comes with a report.
REPORT_CODES = (0, 1, 5)


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    scenario: scenario.Scenario
    kernel: str
    vers: str
    json: Path | None
    save: Path | None
    keep: bool


def run(request: Request) -> int:
    """Plays the scenario and says PASS or FAIL; errors go into the JSON as well."""
    lab.clear_orphans()
    try:
        return judged(request)
    except LabError as error:
        result = {LostGuest: "LOST", ProductError: "FAIL"}.get(type(error), "ERROR")
        write(request, {"result": result, "message": str(error)})
        if result == "FAIL":
            print(f"FAIL {heading(request)}: nfsblame itself failed")
        raise


def judged(request: Request) -> int:
    """Plays in a fresh lab, and says how it went."""
    return told(request, *outcome_of(request))


def judged_in(booted: lab.Lab, request: Request, kept: Path) -> int:
    """The same in a lab that is up already, and stays so."""
    return told(request, *outcome_in(booted, request, kept))


def told(request: Request, outcome: Outcome, played: play.Played, document: Report) -> int:
    """Writes and says how it went; the exit status."""
    write(request, {**outcome.as_json(), **asdict(played), "report": document})
    print(summary(request, outcome))
    for note in played.notes:
        tools.say(note)
    return 1 if outcome.missed else 0


def scored(request: Request) -> score.Row:
    """Plays, and returns the row of the score; what goes wrong is a row as well."""
    lab.clear_orphans()
    about = request.scenario.name, request.kernel, request.vers
    try:
        outcome, played, document = outcome_of(request)
    except ProductError as error:
        return score.Row(*about, "failed", notes=(str(error),))
    except LabError as error:
        return score.Row(*about, "lost", notes=(str(error),))
    write(request, {**outcome.as_json(), **asdict(played), "report": document})
    print(summary(request, outcome), flush=True)
    return score.row_of(*about, outcome)


def outcome_of(request: Request) -> tuple[Outcome, play.Played, Report]:
    """Boots a lab, plays, fetches the captures, reports and judges."""
    name = f"run-{os.getpid()}"
    with (
        tempfile.TemporaryDirectory() as folder,
        lab.fresh(name, config(request), request.keep) as booted,
    ):
        return outcome_in(booted, request, request.save or Path(folder))


def outcome_in(
    booted: lab.Lab, request: Request, kept: Path
) -> tuple[Outcome, play.Played, Report]:
    """The same in a lab that is up already, and stays so."""
    played = play.Play(booted, request.scenario).run()
    captures = fetch_captures(booted, kept)
    text = report(captures, "json")
    if request.save:
        (kept / "report.json").write_text(text)
        (kept / "report.txt").write_text(report(captures, "text"))
    document: Report = json.loads(text)
    return judge(request.scenario.expect, document, played.injected_us), played, document


def config(request: Request) -> lab.Config:
    """The lab the scenario needs."""
    guests = request.scenario.guests
    return lab.Config(
        kernel=request.kernel,
        vers=request.vers,
        roles=list(guests),
        packages={role: shell.packages for role, shell in guests.items()},
        mount_options={role: shell.mount_options for role, shell in guests.items()},
        disk_mib_per_s=guests["server"].disk_mib_per_s,
        scenario=str(request.scenario.path),
        owner=0 if request.keep else os.getpid(),
    )


def fetch_captures(booted: lab.Lab, folder: Path) -> list[Path]:
    """Brings every guest's capture to the host."""
    captures = []
    for guest in booted.guests():
        target = folder / "captures" / guest.name
        tools.run(["rm", "-rf", target], "clearing an old capture")
        play.fetch(guest, play.CAPTURE, target)
        captures.append(target)
    return captures


def report(captures: list[Path], form: str) -> str:
    """Runs the working tree's `nfsblame report` here: it needs neither root nor bcc."""
    paths = [str(path.resolve()) for path in captures]
    argv = [wheels.python(), "-m", "tracer", "report", *paths, "--format", form]
    done = subprocess.run(argv, cwd=places.REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode not in REPORT_CODES or not done.stdout:
        raise ProductError(f"nfsblame report ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def write(request: Request, document: dict[str, Any]) -> None:
    """Writes the JSON that was asked for."""
    if request.json:
        head = {
            "scenario": request.scenario.name,
            "kernel": request.kernel,
            "vers": request.vers,
        }
        request.json.parent.mkdir(parents=True, exist_ok=True)
        request.json.write_text(json.dumps({**head, **document}, indent=1) + "\n")


def heading(request: Request) -> str:
    """Which scenario, where."""
    return f"{request.scenario.name} kernel {request.kernel} vers {request.vers}"


def summary(request: Request, outcome: Outcome) -> str:
    """The lines for people."""
    losses = ", ".join(f"{reason} {count}" for reason, count in outcome.losses.items() if count)
    unknown = "-" if outcome.unknown_share is None else f"{outcome.unknown_share:.1%}"
    parts = [
        culprit_words(outcome),
        time_words(outcome),
        f"unknown {unknown}",
        f"losses {losses or 'none'}",
    ]
    lines = [f"{outcome.result()} {heading(request)}: " + ", ".join(part for part in parts if part)]
    lines += [f"  {miss.key}: expected {miss.expected}, got {miss.got}" for miss in outcome.missed]
    return "\n".join(lines)


def culprit_words(outcome: Outcome) -> str:
    """The first culprit and its share."""
    first = outcome.culprit
    if first is None:
        return "no culprit"
    return f"{first['name']} ({first['cause']}, {first['host']}) {first['share']:.1%}"


def time_words(outcome: Outcome) -> str:
    """Attributed time beside the injected time."""
    if outcome.attributed_us is None:
        return ""
    words = f"attributed {outcome.attributed_us / 1e6:.3f} s"
    return words if outcome.injected_us is None else f"{words} of {outcome.injected_us / 1e6:.3f} s"
