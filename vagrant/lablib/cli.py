"""The lab's command line."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from lablib import kernels, peers, places, runner, scenario, score, tools
from lablib.errors import LabError, UsageError
from lablib.lab import ROLES, VERSIONS, Config, Lab

EPILOG = """\
examples:
  vagrant/lab up                               boot server and client, export mounted
  vagrant/lab exec server -- cat /proc/fs/nfsd/threads
  vagrant/lab run demo                         boot, record an incident, check the verdict, end
  vagrant/lab score demo clear --runs 5        how often is it right? into build/score
  vagrant/lab --lab mine up                    a second lab beside the first

exit codes:
  0  done; of exec: the command's own; of run: PASS; of score: all right
  1  run: FAIL; score: some are not right
  2  usage, or an invalid scenario
  3  lost guest: it crashed or fell silent, which is no verdict
  4  the lab could not do its work
"""


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="vagrant/lab",
        description="Real NFS between real kernels, in QEMU guests.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--lab", default="default", metavar="NAME", help="which lab (default: default)"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="boot server and client, or what is named")
    up.add_argument("guests", nargs="*", metavar="GUEST", help=", ".join(ROLES))
    add_choices(up)

    commands.add_parser("down", help="end the guests")
    commands.add_parser("list", help="the scenarios")
    commands.add_parser("kernels", help="the kernel matrix")

    execute = commands.add_parser("exec", help="run a command in a guest; its exit status is ours")
    execute.add_argument("guest", choices=ROLES)
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")

    run = commands.add_parser("run", help="play a scenario in fresh guests and judge the report")
    run.add_argument("scenario", help="a name from the list, or a path to a .toml file")
    add_choices(run)
    run.add_argument("--json", type=Path, metavar="FILE", help="write outcome and report")
    run.add_argument("--save", type=Path, metavar="DIR", help="keep the captures and reports")
    run.add_argument("--keep", action="store_true", help="leave the guests running")

    scored = commands.add_parser("score", help="play scenarios and say how often it was right")
    scored.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="(default: all)")
    add_choices(scored)
    scored.add_argument("--runs", type=int, default=1, metavar="N", help="of each (default: 1)")
    scored.add_argument(
        "--out",
        type=Path,
        default=places.REPOSITORY / "build/score",
        metavar="DIR",
        help="where table, outcomes and reports go (default: build/score)",
    )
    scored.add_argument(
        "--peers",
        action="store_true",
        help="play each under bcc's tools as well, and say what they name",
    )
    return top


def add_choices(command: argparse.ArgumentParser) -> None:
    """The options of every command that boots."""
    command.add_argument("--kernel", help="a kernel of the matrix (default: see kernels)")
    command.add_argument("--vers", choices=VERSIONS, default="4.2", help="NFS version (4.2)")


def up(options: argparse.Namespace) -> int:
    """Boots what is named; clients need their server."""
    unknown = set(options.guests) - set(ROLES)
    if unknown:
        raise UsageError(f"no guest {unknown.pop()}; there are {', '.join(ROLES)}")
    wanted = {"server", *(options.guests or ["client"])}
    config = Config(
        kernel=kernels.choose(options.kernel).name,
        vers=options.vers,
        roles=[role for role in ROLES if role in wanted],
    )
    Lab(options.lab).up(config)
    return 0


def down(options: argparse.Namespace) -> int:
    """Ends the lab."""
    Lab(options.lab).down()
    return 0


def show_scenarios(options: argparse.Namespace) -> int:
    """One line per scenario."""
    for known in scenario.known():
        print(f"{known.path.stem:16} {known.about}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Plays a scenario."""
    request = runner.Request(
        scenario=scenario.load(scenario.find(options.scenario)),
        kernel=kernels.choose(options.kernel).name,
        vers=options.vers,
        json=options.json,
        save=options.save,
        keep=options.keep,
    )
    return runner.run(request)


def score_scenarios(options: argparse.Namespace) -> int:
    """Plays scenarios one after the other; the table is written after each, for the impatient."""
    names = options.scenarios or [known.path.stem for known in scenario.known()]
    chosen = [scenario.load(scenario.find(name)) for name in names]
    kernel = kernels.choose(options.kernel).name
    rows: list[score.Row] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for each in chosen:
        for number in range(1, options.runs + 1):
            folder = options.out / f"{each.path.stem}-{kernel}-{number}"
            request = runner.Request(
                scenario=each,
                kernel=kernel,
                vers=options.vers,
                json=folder / "outcome.json",
                save=folder,
                keep=False,
            )
            rows.append(runner.scored(request))
            (options.out / "score.txt").write_text(score.table(rows))
            (options.out / "score.json").write_text(json.dumps(score.document(rows), indent=1))
    print(score.table(rows), end="")
    if options.peers:
        print(watch_peers(chosen, kernel, options), end="")
    return 0 if all(row.grade == "right" for row in rows) else 1


def watch_peers(chosen: list[scenario.Scenario], kernel: str, options: argparse.Namespace) -> str:
    """Plays scenarios under other tools; returns the table, which is written after each."""
    said: list[peers.Said] = []
    for each in chosen:
        request = runner.Request(each, kernel, options.vers, json=None, save=None, keep=False)
        folder = options.out / f"{each.path.stem}-{kernel}-peers"
        said += peers.watch(each, runner.config(request), folder)
        (options.out / "peers.txt").write_text(peers.table(said))
    return peers.table(said)


def show_kernels(options: argparse.Namespace) -> int:
    """One line per kernel."""
    for kernel in kernels.matrix():
        state = "default" if kernel.default else "" if kernel.enabled else kernel.reason
        print(f"{kernel.name:6} {kernel.release:10} {kernel.package}  {state}".rstrip())
    return 0


def execute(options: argparse.Namespace) -> int:
    """Runs a command in a guest."""
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise UsageError("exec needs a command: vagrant/lab exec server -- uname -r")
    return Lab(options.lab).guest(options.guest).stream(argv)


COMMANDS = {
    "up": up,
    "down": down,
    "list": show_scenarios,
    "kernels": show_kernels,
    "exec": execute,
    "run": run,
    "score": score_scenarios,
}


def main(argv: Sequence[str]) -> int:
    """Runs a command line; every error becomes a message and the documented exit code."""
    signal.signal(signal.SIGTERM, interrupt)
    options = parser().parse_args(argv)
    try:
        return COMMANDS[options.command](options)
    except LabError as error:
        tools.say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        tools.say("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def interrupt(number: int, frame: FrameType | None) -> None:
    """Being ended is cleaned up after as Ctrl-C is."""
    raise KeyboardInterrupt
