"""What is looked for in /proc aside, where it may take long, and told once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from tracer.procfs.aside import Aside

_K = TypeVar("_K", bound=Hashable)
_F = TypeVar("_F", bound=Hashable)


class Sought(Generic[_K, _F]):
    """What is found for the keys that are asked for, several at a look."""

    def __init__(
        self,
        aside: Aside,
        look: Callable[[frozenset[_K]], Iterable[_F]],
        again_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``again_s``: for so long a key is not looked for again."""
        self._aside = aside
        self._look = look
        self._again_s = again_s
        self._clock = clock
        self._wanted: set[_K] = set()
        self._asked: frozenset[_K] = frozenset()
        self._known: set[_F] = set()
        self._due: dict[_K, float] = {}  # when to look again

    def want(self, key: _K) -> None:
        """Have something looked for, if that was not done just now."""
        if self._clock() >= self._due.get(key, -math.inf):
            self._wanted.add(key)

    def found(self) -> list[_F]:
        """Return what was found since the last call, and was not before."""
        if not self._asked:
            self._asked, self._wanted = frozenset(self._wanted), set()
            self._due |= dict.fromkeys(self._asked, self._clock() + self._again_s)
        asked = self._asked
        if not asked or not self._aside.ask((self, asked), lambda: list(self._look(asked))):
            return []
        self._asked = frozenset()
        new = [one for one in self._aside.take((self, asked)) if one not in self._known]
        self._known.update(new)
        return new
