"""Charges: what a piece of an operation's time is put down to, and exact splitting.

A *mix* holds weights (microseconds, may be fractions); a *bill* holds whole
microseconds that add up exactly to the time that was split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, TypeAlias

from tracer.blame.causes import Cause
from tracer.model import ProcessKey

CulpritKind = Literal["process", "module", "bpf", "device", "host", "setting"]


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who is to blame. Processes are told apart by host, pid and start, not by name."""

    kind: CulpritKind
    name: str
    host: str | None = None
    process: ProcessKey | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain: who was waited for, and by which cause."""

    name: str
    pid: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class Charge:
    """A cause, its culprit if one is proven, and the links from the operation to it.

    ``own``: the process that waited, if what it waited for was the rest of its own requests.
    """

    cause: Cause
    culprit: Culprit | None = None
    chain: tuple[Link, ...] = ()
    own: Culprit | None = None
    # Mixes ask for it millions of times.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.cause, self.culprit, self.chain, self.own)))

    def __hash__(self) -> int:
        return self._hash


Mix: TypeAlias = dict[Charge, float]
Bill: TypeAlias = dict[Charge, int]

UNKNOWN: Final = Charge("unknown")
RUNNING: Final = Charge("running")
SLOT: Final = Charge("slot")
CPU: Final = Charge("cpu")
QUEUE_LINK: Final = Link("nfsd", None, "queue")
SLOT_LINK: Final = Link("slots", None, "slot")


def charge_to(cause: Cause, culprit: Culprit | None) -> Charge:
    """Return a charge whose chain is its culprit alone."""
    if culprit is None:
        return Charge(cause)
    pid = culprit.process.pid if culprit.process else None
    return Charge(cause, culprit, (Link(culprit.name, pid, cause),))


def through(link: Link, charge: Charge) -> Charge:
    """Return the charge with one more link between the operation and it.

    A chain that leads to nobody is not kept, but for whether it went through the queue: there
    are as many as ways through a crowd of threads that wait for each other.
    """
    if charge.culprit is not None:
        return Charge(charge.cause, charge.culprit, (link, *charge.chain))
    if link != QUEUE_LINK or charge.chain == (QUEUE_LINK,):
        return charge
    return Charge(charge.cause, None, (QUEUE_LINK,))


def add(mix: Mix, more: Mapping[Charge, float], factor: float = 1.0) -> None:
    """Add weights to a mix in place."""
    for charge, weight in more.items():
        mix[charge] = mix.get(charge, 0.0) + weight * factor


def scaled(mix: Mapping[Charge, float], total: float) -> Mix:
    """Return the mix scaled to a total; all of it unknown if the mix is empty."""
    whole = sum(mix.values())
    if whole <= 0:
        return {UNKNOWN: total}
    return {charge: weight * total / whole for charge, weight in mix.items()}


def filled(mix: Mix, total: float, rest: Charge) -> Mix:
    """Return the mix with what it lacks of ``total`` put down to ``rest``."""
    whole = sum(mix.values())
    if whole >= total:
        return scaled(mix, total)
    add(mix, {rest: total - whole})
    return mix


def split(total: int, weights: Sequence[float]) -> list[int]:
    """Split ``total`` by weights into whole numbers that add up to it exactly.

    Cumulative rounding: no part is off by more than one and none is negative.
    Without any positive weight there is nothing to split by: all parts are 0.
    """
    positive = [max(0.0, weight) for weight in weights]
    sums: list[float] = []
    whole = 0.0
    for weight in positive:
        whole += weight
        sums.append(whole)
    if whole <= 0 or total <= 0:
        return [0] * len(positive)
    bounds = [0, *(round(total * (part / whole)) for part in sums)]
    return [upper - lower for lower, upper in pairwise(bounds)]


def bill(total: int, mix: Mapping[Charge, float]) -> Bill:
    """Return ``total`` microseconds billed in the mix's proportions, adding up exactly."""
    parts = split(total, list(mix.values()))
    if sum(parts) != total:
        return {UNKNOWN: total} if total > 0 else {}
    return {charge: part for charge, part in zip(mix, parts, strict=True) if part}


def merged(bills: Iterable[Mapping[Charge, int]]) -> Bill:
    """Return the sum of bills."""
    total: Bill = {}
    for one in bills:
        for charge, part in one.items():
            total[charge] = total.get(charge, 0) + part
    return total
