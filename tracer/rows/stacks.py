"""Kernel stacks by content: the same stack has the same id in every capture.

The kernel's ids are those of one map in one recording; a hash of the frames lets
recordings, hosts and days be merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tracer.rows.text import clean


class Stacks:
    """Maps the kernel's stack ids to the capture's, and knows which must be written."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[int, str]] = {}  # kernel's id -> (stack_id, frames)
        self._used: dict[int, str] = {}  # since the last `unwritten`
        self._written: set[int] = set()

    def define(self, kernel_id: int, frames: Sequence[str]) -> None:
        """Note the function names of a stack, innermost first."""
        text = clean(";".join(frames))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        self._texts[kernel_id] = (int.from_bytes(digest, "little") >> 1, text)

    def column(self, kernel_id: int) -> int | None:
        """Return the stack_id for a record; None if the stack could not be kept."""
        if kernel_id not in self._texts:
            return None
        stack_id, text = self._texts[kernel_id]
        if stack_id not in self._written:
            self._used[stack_id] = text
        return stack_id

    def unwritten(self) -> list[tuple[int, str]]:
        """Return (stack_id, frames) of all that were referred to and not written yet."""
        rows = list(self._used.items())
        self._written.update(self._used)
        self._used.clear()
        return rows

    def new_segment(self) -> None:
        """Write every stack again when next referred to: each segment stands alone."""
        self._written.clear()
