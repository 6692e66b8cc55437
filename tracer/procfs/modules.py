"""Modules that are not the kernel's own, from the texts of /proc/modules and /proc/filesystems."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Flags of module_flags_taint(): built out of the kernel's tree, proprietary.
_NOT_OF_KERNEL: Final = frozenset(b"OP")


@dataclass(frozen=True, slots=True)
class Module:
    """A module and where its code lies; 0 if the kernel does not tell."""

    name: str
    begin: int
    end: int


def out_of_tree(modules: bytes, filesystems: bytes) -> list[Module]:
    """Return the modules that the kernel says are not of its own tree.

    Not those of filesystems, nor what only they use: waits for storage are below them,
    and they are where nfsd itself goes.
    """
    rows = [fields for line in modules.splitlines() if len(fields := line.split()) >= 6]
    users = {row[0]: {one for one in row[3].split(b",") if one not in (b"", b"-")} for row in rows}
    kinds = {line.split()[-1] for line in filesystems.splitlines() if line.split()}
    spans = _spans(rows)
    return [
        Module(row[0].decode("ascii", "replace"), *spans[row[0]])
        for row in rows
        if len(row) > 6
        and _NOT_OF_KERNEL & frozenset(row[6])
        and not _serves(row[0], kinds, users, set())
    ]


def _spans(rows: list[list[bytes]]) -> dict[bytes, tuple[int, int]]:
    """Return where the code of each module lies.

    The size is of all its parts, which since ac3b43283923 (v6.4) do not lie together: its
    code ends where another module's begins, if not before.
    """
    begins = {row[0]: int(row[5], 16) for row in rows}
    order = sorted(begins, key=lambda name: begins[name])
    ends = {name: begins[following] for name, following in pairwise(order)}
    sizes = {row[0]: int(row[1]) for row in rows}
    return {
        name: (begin, min(begin + sizes[name], ends.get(name, begin + sizes[name])))
        for name, begin in begins.items()
    }


def _serves(
    name: bytes, kinds: set[bytes], users: dict[bytes, set[bytes]], seen: set[bytes]
) -> bool:
    """Return whether a module is a filesystem's, or used by one."""
    seen.add(name)
    return name in kinds or any(
        _serves(user, kinds, users, seen) for user in users.get(name, set()) - seen
    )
