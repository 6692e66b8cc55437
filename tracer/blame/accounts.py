"""Stall time by culprit: what each accounts for, a program's processes taken together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from tracer.blame.causes import OF_LOAD, Cause
from tracer.blame.charge import Charge, Culprit, Link
from tracer.blame.programs import Program, program_of
from tracer.blame.stalls import Stall, Victim
from tracer.model import HostCapture, ProcessKey

# Everyone waits a little for everything: it counts where an operation's waits for it are of this
# part of the threshold by themselves. What is left over goes to the network: there it is all.
_OF_THRESHOLD: Final = 0.5
_OF_NETWORK: Final = 1.0

Blame: TypeAlias = tuple[Culprit, Cause]
"""A culprit and a cause."""


@dataclass(slots=True)
class Account:
    """Stall time of one culprit and cause.

    ``own_us``: its own operations, where its requests are what others wait for: who asks for
    much is measured by what it does to others.
    """

    stall_us: int = 0
    operations: int = 0
    own_us: int = 0
    victims: defaultdict[Victim, list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )
    volumes: defaultdict[Victim, set[str]] = field(default_factory=lambda: defaultdict(set))
    chains: defaultdict[tuple[Link, ...], int] = field(default_factory=lambda: defaultdict(int))


class Programs:
    """Processes that are one program: workers of an agent, or a command called again and again.

    People know, and stop, the program; the one behind most of the time stands for all.
    """

    def __init__(self, stalls: Iterable[Stall], captures: Sequence[HostCapture]) -> None:
        times: Counter[Culprit] = Counter()
        for stall in stalls:
            for charge, us in stall.bill.items():
                for culprit in filter(None, (charge.culprit, charge.own)):
                    times[culprit] += us
        programs = {one: program_of(one, captures) for one, _ in times.most_common()}
        paths = _paths(programs.values())
        groups: defaultdict[object, list[Culprit]] = defaultdict(list)
        for culprit, program in programs.items():
            groups[_with_path(program, paths) or culprit].append(culprit)
        for group in groups.values():
            group.sort(key=lambda one: _is_named_otherwise(one, programs[one]))
        self._members = {group[0]: tuple(group) for group in groups.values()}
        self._first = {one: group[0] for group in groups.values() for one in group}
        self._of_process = {(one.host, one.process): first for one, first in self._first.items()}

    def first(self, culprit: Culprit) -> Culprit:
        """Return who stands for a culprit's program."""
        return self._first.get(culprit, culprit)

    def of_process(self, host: str, process: ProcessKey | None) -> Culprit | None:
        """Return who stands for a process's program, None if nothing is charged to any of it."""
        return self._of_process.get((host, process)) if process else None

    def members(self, first: Culprit) -> tuple[Culprit, ...]:
        """Return all culprits that one stands for, itself included."""
        return self._members.get(first, (first,))


def accounts(
    stalls: Iterable[Stall], programs: Programs, threshold_us: int
) -> dict[Blame, Account]:
    """Return what each culprit accounts for, by cause."""
    stalls = list(stalls)
    found: defaultdict[Blame, Account] = defaultdict(Account)
    of_load = _load_causes(stalls, programs)
    for stall in stalls:
        for key, charges in _by_culprit(stall, programs, of_load).items():
            us = sum(charges.values())
            least = _OF_NETWORK if key[1] == "network" else _OF_THRESHOLD
            # Background work counts less than it took: it is many operations at once.
            if us * stall.wall_us < least * threshold_us * stall.stall_us:
                continue
            account = found[key]
            account.stall_us += us
            account.operations += 1
            share = account.victims[stall.victim]
            share[0] += 1
            share[1] += us
            if stall.operation.volume:
                account.volumes[stall.victim].add(stall.operation.volume)
            for charge, part in charges.items():
                account.chains[_ending_at(key[0], charge.chain)] += part
    for own, us in _own_times(stalls, programs).items():
        if (own, of_load.get(own)) in found:
            found[own, of_load[own]].own_us = us
    return found


def _ending_at(first: Culprit, chain: tuple[Link, ...]) -> tuple[Link, ...]:
    """Return a chain to any process of a program as one to who stands for it."""
    if not chain or first.process is None or chain[-1].pid == first.process.pid:
        return chain
    return *chain[:-1], replace(chain[-1], name=first.name, pid=first.process.pid)


def _own_times(stalls: Iterable[Stall], programs: Programs) -> Counter[Culprit]:
    times: Counter[Culprit] = Counter()
    for stall in stalls:
        op = stall.operation
        owner = programs.of_process(op.host, op.process or op.writer)
        if owner is not None:
            times[owner] += stall.stall_us
    return times


def _by_culprit(
    stall: Stall, programs: Programs, of_load: Mapping[Culprit, Cause]
) -> Mapping[Blame, Mapping[Charge, int]]:
    parts: defaultdict[Blame, dict[Charge, int]] = defaultdict(dict)
    for charge, us in stall.bill.items():
        if charge.culprit is not None:
            first = programs.first(charge.culprit)
            cause = of_load[first] if charge.cause in OF_LOAD else charge.cause
            parts[first, cause][charge] = us
    return parts


def _load_causes(stalls: Iterable[Stall], programs: Programs) -> dict[Culprit, Cause]:
    """Return for each culprit whether it is one of the disk, of the journal, or of slots.

    Who fills a journal has the disk work, too, and who has the slots.
    """
    times: defaultdict[Culprit, Counter[Cause]] = defaultdict(Counter)
    for stall in stalls:
        for charge, us in stall.bill.items():
            if charge.culprit is not None and charge.cause in OF_LOAD:
                times[programs.first(charge.culprit)][charge.cause] += us
    return {culprit: causes.most_common(1)[0][0] for culprit, causes in times.items()}


def _is_named_otherwise(culprit: Culprit, program: Program | None) -> bool:
    """Return whether a process does not stand for its program, by a name that is not its."""
    return program is not None and program.name != culprit.name


def _paths(programs: Iterable[Program | None]) -> Mapping[Program, set[str]]:
    """Return the paths of programs that are alike but for them, by the program without."""
    found: defaultdict[Program, set[str]] = defaultdict(set)
    for program in programs:
        if program is not None and "/" in program.exe:
            found[program._replace(exe="")].add(program.exe)
    return found


def _with_path(program: Program | None, paths: Mapping[Program, set[str]]) -> Program | None:
    """Return a program with its path: of a process that ended at once only the name is known."""
    if program is None or "/" in program.exe:
        return program
    alike = paths.get(program._replace(exe=""), set())
    return program._replace(exe=next(iter(alike))) if len(alike) == 1 else program
