from __future__ import annotations

import math
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.histogram import SUB_BUCKETS, bounds_us, bucket_of, midpoint_us, quantile_us

WHOLE_RANGE = st.one_of(
    st.integers(0, 2**64 - 1),
    # Uniform over orders of magnitude, and the edges of every power of two.
    st.integers(0, 64).flatmap(lambda bits: st.integers(0, 2**bits - 1)),
    st.builds(lambda bits, d: max(0, 2**bits + d), st.integers(0, 63), st.integers(-2, 2)),
)


@given(WHOLE_RANGE)
def test_the_midpoint_is_within_3_2_percent_of_every_value(value: int) -> None:
    middle = midpoint_us(bucket_of(value))
    assert abs(middle - value) <= 0.032 * value


@given(WHOLE_RANGE)
def test_a_value_lies_within_its_buckets_bounds(value: int) -> None:
    low, high = bounds_us(bucket_of(value))
    assert low <= value < high


@given(WHOLE_RANGE, WHOLE_RANGE)
def test_buckets_keep_the_order_of_values(one: int, other: int) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


def test_buckets_follow_each_other_without_gap() -> None:
    last = bucket_of(2**64 - 1)
    assert last == 61 * SUB_BUCKETS - 1
    for bucket in range(last):
        assert bounds_us(bucket)[1] == bounds_us(bucket + 1)[0]
        assert bucket_of(bounds_us(bucket)[0]) == bucket


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0, 1))
def test_a_quantile_is_within_3_2_percent_of_the_exact_one(values: list[int], q: float) -> None:
    counts: dict[int, int] = {}
    for value in values:
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    found = quantile_us(counts, q)
    assert found is not None
    assert abs(found - exact) <= 0.032 * exact


def test_histograms_add_up() -> None:
    rng = random.Random(1)
    values = [int(rng.lognormvariate(8, 3)) for _ in range(2000)]
    halves = [{}, {}]  # type: list[dict[int, int]]
    whole: dict[int, int] = {}
    for index, value in enumerate(values):
        for counts in (whole, halves[index % 2]):
            counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    merged = {b: halves[0].get(b, 0) + halves[1].get(b, 0) for b in {*halves[0], *halves[1]}}
    assert merged == whole


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
def test_no_values_no_quantile(q: float) -> None:
    assert quantile_us({}, q) is None


def test_bpf_computes_the_same_index(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to compare bpf/histogram.h with its twin")
    source = tmp_path / "twin.c"
    source.write_text(
        """
        #include <inttypes.h>
        #include <stdio.h>
        typedef uint32_t u32; typedef uint64_t u64;
        #undef __always_inline
        #define __always_inline inline __attribute__((always_inline))
        #include "histogram.h"
        int main(void) {
            u64 value;
            while (scanf("%" SCNu64, &value) == 1)
                printf("%" PRIu32 "\\n", bucket_of(value));
            return 0;
        }
        """
    )
    bpf = Path(__file__).parents[2] / "bpf"
    subprocess.run(
        [compiler, "-Wall", "-Werror", "-I", bpf, source, "-o", tmp_path / "a"], check=True
    )
    rng = random.Random(2)
    edges = [2**bits + d for bits in range(64) for d in (-1, 0, 1) if 2**bits + d < 2**64]
    values = [*range(4096), *edges, *(rng.getrandbits(rng.randrange(1, 65)) for _ in range(10_000))]
    output = subprocess.run(
        [tmp_path / "a"],
        input="\n".join(map(str, values)),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [int(line) for line in output.split()] == [bucket_of(value) for value in values]
