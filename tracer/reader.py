"""Captures from disk as the objects that blame reasons about. No root, no bcc.

    hosts = read_captures(["/var/tmp/nfs"])

Parquet and journals alike; several folders, hosts and recordings at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.errors import Exit, NfsblameError
from tracer.model import HostCapture

if TYPE_CHECKING:
    from tracer.store.load import Loaded

_SHOWN: Final = 3


def read_captures(paths: Iterable[Path | str]) -> list[HostCapture]:
    """Return one HostCapture for each host and boot under ``paths``, ordered by host and start.

    A path is a capture's folder or one that holds several. What is damaged among
    good files is named in ``incomplete``. Raises NfsblameError if a path is no
    capture, if it is empty or of another schema version (USAGE), or if all that is
    in it is damaged (INCOMPLETE).
    """
    # These import pyarrow: not for `report --help`.
    from tracer.store.load import load  # noqa: PLC0415
    from tracer.store.objects import host_captures  # noqa: PLC0415

    folders = [Path(path) for path in paths]
    loaded = load(folders)
    if not loaded.segments:
        raise _nothing(folders, loaded)
    return host_captures(loaded)


def _nothing(folders: list[Path], loaded: Loaded) -> NfsblameError:
    names = ", ".join(str(folder) for folder in folders)
    if not loaded.problems:
        return NfsblameError(
            f"{names} holds no data: `nfsblame record` writes its first after one interval",
            Exit.USAGE,
        )
    shown = "; ".join(problem.text for problem in loaded.problems[:_SHOWN])
    more = len(loaded.problems) - _SHOWN
    return NfsblameError(
        f"nothing in {names} can be read: {shown}"
        + (f"; and {more} more" if more > 0 else "")
        + ": copy the folder anew from the host that recorded it",
        Exit.INCOMPLETE,
    )
