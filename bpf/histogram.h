/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Log-linear buckets, 16 per power of two; the twin of tracer/histogram.py. */
#ifndef NFSBLAME_HISTOGRAM_H
#define NFSBLAME_HISTOGRAM_H

static __always_inline u32 log2_floor(u64 value)
{
	u32 exponent = 0;

	if (value >> 32) {
		value >>= 32;
		exponent += 32;
	}
	if (value >> 16) {
		value >>= 16;
		exponent += 16;
	}
	if (value >> 8) {
		value >>= 8;
		exponent += 8;
	}
	if (value >> 4) {
		value >>= 4;
		exponent += 4;
	}
	if (value >> 2) {
		value >>= 2;
		exponent += 2;
	}
	return exponent + (value >> 1);
}

static __always_inline u32 bucket_of(u64 value_us)
{
	u32 exponent;

	if (value_us < 16)
		return value_us;
	exponent = log2_floor(value_us);
	return (exponent - 3) * 16 + ((value_us >> (exponent - 4)) & 15);
}

#endif
