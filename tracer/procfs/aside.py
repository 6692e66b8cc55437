"""Looks that may hang, in a thread that nobody waits for.

Folders may lie on what the agent under observation holds, and a command line is
behind the memory lock of its process, which sleeps in the very stall. The answer
is taken when it is there; until then it is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

_MOST: Final = 1024


class Aside:
    """Answers by key, each looked for once until it is forgotten."""

    def __init__(self) -> None:
        self._questions: SimpleQueue[tuple[Hashable, Callable[[], Any]]] = SimpleQueue()
        self._answers: dict[Hashable, Any] = {}
        self._asked: set[Hashable] = set()
        self._thread: Thread | None = None

    def ask(self, key: Hashable, look: Callable[[], Any]) -> bool:
        """Return whether the answer is there; have ``look`` called if it was not asked for yet.

        ``look`` must not raise. While too many questions are open it is left for later.
        """
        if key not in self._asked and len(self._asked) - len(self._answers) < _MOST:
            self._asked.add(key)
            self._questions.put((key, look))
            if self._thread is None:
                self._thread = Thread(target=self._look, name="aside", daemon=True)
                self._thread.start()
        return key in self._answers

    def take(self, key: Hashable) -> Any:
        """Return the answer that is there and forget it: it may be asked for again."""
        self._asked.discard(key)
        return self._answers.pop(key)

    def settle(self, seconds: float) -> None:
        """Give the open questions this long."""
        deadline = time.monotonic() + seconds
        while len(self._answers) < len(self._asked) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _look(self) -> None:
        while True:
            key, look = self._questions.get()
            self._answers[key] = look()
