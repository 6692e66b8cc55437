"""What goes on at once: the time of each, shared with those beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise


def shares_us(times: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each begin and end (us) its share of the time in which any of them went on.

    An instant is divided evenly among all that go on in it. The shares add up to the time
    in which any went on, but for rounding of less than 1 us each.
    """
    changes: dict[int, int] = {}
    for begin, end in times:
        changes[begin] = changes.get(begin, 0) + 1
        changes[end] = changes.get(end, 0) - 1
    moments = sorted(changes)
    going_on = accumulate(changes[moment] for moment in moments)
    parts = (
        (later - moment) / count if count else 0.0
        for (moment, later), count in zip(pairwise(moments), going_on, strict=False)
    )
    share_until = dict(zip(moments, accumulate(parts, initial=0.0), strict=False))
    return [round(share_until[end] - share_until[begin]) for begin, end in times]
