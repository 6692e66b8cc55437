"""What a file of a capture says of its recording: JSON under one key of its metadata.

In a sealed file it tells the recording up to the segment's end; in a journal, up
to the segment's begin (what came since stands in the rows).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any, Final

from tracer.records import SIDES
from tracer.rows.clock import Clock
from tracer.schema import SCHEMA_VERSION

_LONGEST_TEXT: Final = 4096
_MOST: Final = 1 << 62


class BadFooter(ValueError):
    """Metadata that is missing or no JSON of the expected form."""


class OtherVersion(ValueError):
    """A file of another schema version; the message is its version and nfsblame's."""

    def __init__(self, schema: object, version: object) -> None:
        super().__init__(f"schema {schema}, nfsblame {version}")
        self.schema = schema
        self.version = version


@dataclass(frozen=True, slots=True)
class Footer:
    """One file's account of its recording.

    Times are wall clock, microseconds since 1970: recording began at ``start_us``,
    this segment of it at ``begin_us``, and both go up to ``end_us``.
    """

    host: str
    kernel: str
    boot_id: str
    sides: tuple[str, ...]
    threshold_us: int
    interval_s: float
    clock: Clock
    start_us: int
    begin_us: int
    end_us: int
    version: str
    recording: str = ""
    segment: str = ""
    command: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    nfsd_threads: int | None = None
    probes: tuple[Mapping[str, Any], ...] = ()
    losses: Mapping[str, int] = field(default_factory=dict)
    overhead: Mapping[str, float] = field(default_factory=dict)
    ended: str | None = None
    """Why recording ended; None while it goes on, and for good if it was killed."""

    schema: int = SCHEMA_VERSION

    @classmethod
    def of_hello(cls, hello: Mapping[str, Any]) -> Footer:
        """Return the footer of a recording that has just begun."""
        clock = Clock(hello["mono_ns"], hello["wall_ns"], hello["boot_minus_mono_ns"])
        start_us = clock.wall_us(clock.mono_ns)
        return cls(
            host=hello["host"],
            kernel=hello["kernel"],
            boot_id=hello["boot_id"],
            sides=tuple(hello["sides"]),
            threshold_us=hello["threshold_us"],
            interval_s=hello["interval_s"],
            clock=clock,
            start_us=start_us,
            begin_us=start_us,
            end_us=start_us,
            version=hello["version"],
            command=tuple(hello["command"]),
            addresses=tuple(hello["addresses"]),
            nfsd_threads=hello["nfsd_threads"],
            probes=tuple(hello["probes"]),
        )

    def hello_again(self, hello: Mapping[str, Any]) -> Footer:
        """Return the footer with what a second HELLO may change; the clock stays."""
        other = Footer.of_hello(hello)
        changed = ("sides", "threshold_us", "interval_s", "addresses", "nfsd_threads", "probes")
        return replace(self, **{name: getattr(other, name) for name in changed})

    def to_json(self) -> bytes:
        """Return the metadata's value."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, key: bytes) -> Footer:
        """Return the footer in a file's metadata. Raises BadFooter, OtherVersion."""
        try:
            found = json.loads((metadata or {})[key])
            schema = found["schema"]
        except (KeyError, TypeError, ValueError) as error:
            raise BadFooter("not written by nfsblame") from error
        if schema != SCHEMA_VERSION:
            raise OtherVersion(schema, found.get("version", "?"))
        try:
            return cls._checked(found)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadFooter("its metadata is damaged") from error

    @classmethod
    def _checked(cls, found: dict[str, Any]) -> Footer:
        """Return the footer with every value of the type that it must have."""
        clock = found["clock"]
        threads, ended = found["nfsd_threads"], found["ended"]
        return cls(
            recording=_text(found["recording"]),
            segment=_text(found["segment"]),
            host=_text(found["host"]),
            kernel=_text(found["kernel"]),
            boot_id=_text(found["boot_id"]),
            sides=tuple(side for side in SIDES.values() if side in found["sides"]),
            threshold_us=_whole(found["threshold_us"]),
            interval_s=_number(found["interval_s"]),
            clock=Clock(
                _whole(clock["mono_ns"]),
                _whole(clock["wall_ns"]),
                _whole(clock["boot_minus_mono_ns"]),
            ),
            start_us=_whole(found["start_us"]),
            begin_us=_whole(found["begin_us"]),
            end_us=_whole(found["end_us"]),
            version=_text(found["version"]),
            command=tuple(_text(word) for word in found["command"]),
            addresses=tuple(_text(address) for address in found["addresses"]),
            nfsd_threads=None if threads is None else _whole(threads),
            probes=tuple(dict(probe) for probe in found["probes"]),
            losses={_text(name): _whole(n) for name, n in found["losses"].items()},
            overhead={_text(name): _number(n) for name, n in found["overhead"].items()},
            ended=None if ended is None else _text(ended),
        )


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise TypeError(f"not a text: {value!r:.40}")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST:
        raise TypeError(f"not a whole number: {value!r:.40}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise TypeError(f"not a number: {value!r:.40}")
    return float(value)
