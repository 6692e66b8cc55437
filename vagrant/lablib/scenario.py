"""Scenario files: read, checked key by key, and refused with the mend."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lablib import places
from lablib.errors import UsageError

Kinds = tuple[type, ...]
TEXT: Kinds = (str,)
NUMBER: Kinds = (int, float)
LIST: Kinds = (list,)

GUEST_KEYS: dict[str, Kinds] = {"packages": LIST, "setup": TEXT, "fault": TEXT, "work": TEXT}
CLIENT_KEYS: dict[str, Kinds] = {**GUEST_KEYS, "mount_options": TEXT}
SERVER_KEYS: dict[str, Kinds] = {**GUEST_KEYS, "disk_mib_per_s": NUMBER}
TABLES: dict[str, dict[str, Kinds]] = {
    "server": SERVER_KEYS,
    "client": CLIENT_KEYS,
    "client2": CLIENT_KEYS,
    "record": {"seconds": NUMBER, "start": TEXT, "delay": NUMBER, "options": LIST},
    "expect": {
        "cause": TEXT,
        "culprit": TEXT,
        "host": TEXT,
        "min_share": NUMBER,
        "injected_us": (int, str),
        "tolerance": NUMBER,
        "also": LIST,
    },
}
# Lists whose items are tables, and what these know; all others are of strings.
ITEMS: dict[str, dict[str, Kinds]] = {
    "also": {"culprit": TEXT, "cause": TEXT, "min_share": NUMBER},
}
TOP_KEYS: dict[str, Kinds] = {"name": TEXT, "about": TEXT, **dict.fromkeys(TABLES, (dict,))}
NAMES: dict[type, str] = {str: "a string", int: "an integer", float: "a number", list: "a list"}


@dataclass(frozen=True)
class Shell:
    """What happens in one guest."""

    packages: list[str] = field(default_factory=list)
    setup: str = ""
    fault: str = ""
    work: str = ""
    mount_options: str = ""
    disk_mib_per_s: float | None = None


@dataclass(frozen=True)
class Record:
    """How it is recorded."""

    seconds: float = 30
    start: str = "before"
    delay: float = 10
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Also:
    """A culprit after the first; None: no matter what."""

    culprit: str | None = None
    cause: str | None = None
    min_share: float | None = None


@dataclass(frozen=True)
class Expect:
    """What the report must say; None: no matter what."""

    cause: str | None = None
    culprit: str | None = None
    host: str | None = None
    min_share: float | None = None
    injected_us: int | str | None = None
    tolerance: float = 0.1
    also: list[Also] = field(default_factory=list)


@dataclass(frozen=True)
class Scenario:
    """One scenario file."""

    path: Path
    name: str
    about: str
    guests: dict[str, Shell]
    record: Record
    expect: Expect


def find(name: str) -> Path:
    """The file of a scenario given by name or by path."""
    path = Path(name)
    if path.suffix == ".toml" or "/" in name:
        if not path.is_file():
            raise UsageError(f"there is no scenario file {path}")
        return path.resolve()
    path = places.SCENARIOS / f"{name}.toml"
    if not path.is_file():
        raise UsageError(f"there is no scenario {name}; see vagrant/lab list")
    return path


def known() -> list[Scenario]:
    """The lab's own scenarios."""
    return [load(path) for path in sorted(places.SCENARIOS.glob("*.toml"))]


def load(path: Path) -> Scenario:
    """Reads a scenario file."""
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    try:
        return checked(path, data)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def checked(path: Path, data: dict[str, Any]) -> Scenario:
    """The scenario in the data, if every key of it is known and of its type."""
    check("", data, TOP_KEYS)
    for table, keys in TABLES.items():
        check(f"{table}.", data.get(table, {}), keys)
    scenario = Scenario(
        path=path,
        name=data.get("name", path.stem),
        about=data.get("about", ""),
        guests={
            # A second client costs a guest: only who asks for it gets it.
            role: Shell(**data.get(role, {}))
            for role in ("server", "client", "client2")
            if role != "client2" or role in data
        },
        record=Record(**data.get("record", {})),
        expect=expected(data.get("expect", {})),
    )
    check_values(scenario)
    return scenario


def expected(table: dict[str, Any]) -> Expect:
    """What the report must say."""
    return Expect(**{**table, "also": [Also(**item) for item in table.get("also", [])]})


def check(where: str, table: dict[str, Any], keys: dict[str, Kinds]) -> None:
    """Refuses unknown keys and wrong types."""
    for key, value in table.items():
        if key not in keys:
            raise UsageError(f"unknown key {where}{key}; known are: {', '.join(keys)}")
        kinds = keys[key]
        # In Python True is an int; in a scenario it is not.
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join(NAMES.get(kind, "a table") for kind in kinds)
            raise UsageError(f"{where}{key} must be {wanted}, not {value!r}")
        if isinstance(value, list):
            check_items(f"{where}{key}", value, ITEMS.get(key))


def check_items(where: str, items: list[Any], keys: dict[str, Kinds] | None) -> None:
    """Refuses what may not be in a list; ``keys``: of items that are tables."""
    kind, wanted = (str, "strings") if keys is None else (dict, "tables")
    if not all(isinstance(item, kind) for item in items):
        raise UsageError(f"{where} must be a list of {wanted}, not {items!r}")
    for item in items if keys else ():
        check(f"{where}.", item, keys or {})


def check_values(scenario: Scenario) -> None:
    """Refuses values that would only fail after minutes of work."""
    record, expect = scenario.record, scenario.expect
    if record.start not in ("before", "stuck"):
        raise UsageError(f'record.start must be "before" or "stuck", not "{record.start}"')
    if record.seconds <= 0:
        raise UsageError(f"record.seconds must be more than 0, not {record.seconds}")
    if record.delay < 0:
        raise UsageError(f"record.delay must not be negative, as {record.delay} is")
    for share in (expect.min_share, *(one.min_share for one in expect.also)):
        if share is not None and not 0 <= share <= 1:
            raise UsageError(f"expect.min_share must be between 0 and 1, not {share}")
    if expect.tolerance < 0:
        raise UsageError(f"expect.tolerance must not be negative, as {expect.tolerance} is")
    if expect.host not in (None, "server", "client", "client2"):
        raise UsageError(f'expect.host must be server, client or client2, not "{expect.host}"')
    rate = scenario.guests["server"].disk_mib_per_s
    if rate is not None and rate <= 0:
        raise UsageError(f"server.disk_mib_per_s must be more than 0, not {rate}")
    try:
        for pattern in (expect.culprit, *(one.culprit for one in expect.also)):
            re.compile(pattern or "")
    except re.error as error:
        raise UsageError(f"expect.culprit is not a regular expression: {error}") from error
