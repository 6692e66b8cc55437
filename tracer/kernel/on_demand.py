"""Programs that are attached only as long as there is a use for them: each hit of them costs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tracer.kernel import bpf


class OnDemand:
    """Programs of raw tracepoints that make sense together only."""

    def __init__(self, programs: Sequence[tuple[int, str]]) -> None:
        """Take (program, tracepoint) of each; none, if one of them cannot be had."""
        self._programs = list(programs)
        self._links: list[int] = []

    def attach(self) -> None:
        """Attach all of them, unless they are, or were refused: the plan has told why."""
        if self._links:
            return
        try:
            for program, tracepoint in self._programs:
                self._links.append(bpf.attach_raw_tracepoint(program, tracepoint))
        except OSError:
            self.detach()
            self._programs.clear()

    def detach(self) -> None:
        """Detach them, if they are attached."""
        for link in self._links:
            os.close(link)
        self._links.clear()
