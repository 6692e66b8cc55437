"""Log-linear histogram buckets: 16 linear sub-buckets per power of two.

The index is computed in BPF (``bpf/histogram.h``) with the same arithmetic; a
unit test compiles that header natively and compares. Values are microseconds.
Below 32 us a bucket is one value wide; above, the width is 1/16 of the power of
two below the value, so a bucket's midpoint is within 1/32 (3.125 %) of any value
in it. Buckets of equal index add up over intervals, hosts and days.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SUB_BITS: Final = 4
SUB_BUCKETS: Final = 1 << SUB_BITS


def bucket_of(value_us: int) -> int:
    """Return the bucket index of a non-negative duration in microseconds."""
    if value_us < SUB_BUCKETS:
        return value_us
    exponent = value_us.bit_length() - 1
    sub = (value_us >> (exponent - SUB_BITS)) & (SUB_BUCKETS - 1)
    return (exponent - SUB_BITS + 1) * SUB_BUCKETS + sub


def bounds_us(bucket: int) -> tuple[int, int]:
    """Return the bucket's bounds in microseconds, lower included, upper excluded."""
    if bucket < SUB_BUCKETS:
        return bucket, bucket + 1
    shift = bucket // SUB_BUCKETS - 1
    low = (SUB_BUCKETS + bucket % SUB_BUCKETS) << shift
    return low, low + (1 << shift)


def midpoint_us(bucket: int) -> float:
    """Return the value reported for the bucket, in microseconds."""
    low, high = bounds_us(bucket)
    return float(low) if high - low == 1 else (low + high) / 2


def quantile_us(counts: Mapping[int, int], q: float) -> float | None:
    """Return the q-quantile (0..1) in microseconds of ``{bucket: count}``, None if empty.

    Nearest rank: the midpoint of the bucket that holds the ceil(q * n)-th value.
    """
    total = sum(counts.values())
    if total == 0:
        return None
    rank = max(1, -int(-q * total // 1))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return midpoint_us(bucket)
    raise AssertionError("unreachable: counts add up to total")
