/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * nfsd's threads: at work from when they take up a transport until they sleep with nothing in
 * hand. While all are, none is free, and what arrives has to wait. Only who goes to sleep or is
 * woken pays for that, not who goes from one request to the next. Several pools of threads
 * count as one.
 *
 * What a thread waits for between two requests, such as pages for the next, keeps that one
 * waiting: if it takes long it is a record, like an operation.
 */

BPF_ARRAY(crew, struct crew_rec, 1);
/* Filled by the collector. */
BPF_ARRAY(crew_size, struct crew_size, 1);

/* By its name, "nfsd": read as one number. */
static __always_inline bool is_nfsd(struct op_rec *op)
{
	return *(u32 *)op->comm == 0x6473666e && !op->comm[4];
}

/* A server's thread has no request and is not free, for what it waits for now. */
static __always_inline void between_begins(struct op_rec *op, u64 now)
{
	op_begin(op, SIDE_SERVER, now);
	op->active = 0;
	/* Until it is free: its next request may have the waits. */
	op->early = 1;
	op->taken = BETWEEN_REQUESTS;
	op->op = 0;
	op->xid = 0;
	op->arrival_ns = 0;
	__builtin_memset(op->peer, 0, sizeof(op->peer));
}

/* It is free, or takes up its next request. Of a short time that one has the waits. */
static __always_inline void between_ends(struct op_rec *op, u64 now)
{
	if (op->taken != BETWEEN_REQUESTS || now - op->begin_ns < cut_ns())
		return;
	op->end_ns = now;
	if (ring.ringbuf_output(op, sizeof(*op), 0))
		count_loss(LOSS_RING_FULL);
	op->early = 0;
}

static __always_inline bool none_is_free(struct crew_rec *rec, struct crew_size *size)
{
	return size->threads && (s64)(rec->busy + size->before) >= (s64)size->threads;
}

static __always_inline void crew_begins(struct op_rec *op, u64 now)
{
	struct crew_size *size;
	struct crew_rec *rec;
	u32 zero = 0;

	if (op->at_work || !is_nfsd(op))
		return;
	rec = crew.lookup(&zero);
	size = crew_size.lookup(&zero);
	if (!rec || !size)
		return;
	op->at_work = 1;
	__sync_fetch_and_add(&rec->busy, 1);
	if (rec->since_ns || !none_is_free(rec, size))
		return;
	rec->since_ns = now;
	/* A barrier, too: who ends now sees the stamp, or we that it has ended. */
	__sync_fetch_and_add(&rec->times, 1);
	if (!none_is_free(rec, size))
		rec->since_ns = 0;
}

static __always_inline void crew_ends(struct op_rec *op, u64 now)
{
	struct crew_size *size;
	struct crew_rec *rec;
	u64 since_ns;
	u32 zero = 0;

	if (!op->at_work)
		return;
	rec = crew.lookup(&zero);
	size = crew_size.lookup(&zero);
	if (!rec || !size)
		return;
	since_ns = rec->since_ns;
	if (!since_ns && none_is_free(rec, size))
		since_ns = size->begun_ns;
	op->at_work = 0;
	__sync_fetch_and_add(&rec->busy, -1);
	if (!since_ns)
		since_ns = rec->since_ns;
	if (!since_ns || none_is_free(rec, size))
		return;
	rec->since_ns = 0;
	if (now > since_ns)
		__sync_fetch_and_add(&rec->none_ns, now - since_ns);
}
