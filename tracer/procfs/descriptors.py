"""What the processes of a host have open, by /proc/PID/fd and fdinfo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path


def descriptors(proc: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[int, int, str]]:
    """Yield (pid, descriptor, text of fdinfo) of those whose link's text is ``wanted``.

    A process that ends meanwhile, and what it has closed, are left out.
    """
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            links = list((process / "fd").iterdir())
        except OSError:
            continue
        for link in links:
            try:
                if not wanted(str(link.readlink())):
                    continue
                text = (process / "fdinfo" / link.name).read_text()
            except (OSError, ValueError):
                continue
            yield int(process.name), int(link.name), text
