/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * fanotify permission events: which group a thread waits for, and who reads and
 * answers that group. fanotify_get_response, where the thread sleeps, is inlined
 * everywhere, and fanotify_handle_event around it has more arguments than fentry
 * takes. But a thread that sleeps there has just put its event into the group's
 * queue, so the last group it did that for is the one it waits for.
 */

/* FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | FAN_PRE_ACCESS */
#define FAN_PERMISSION_EVENTS 0x170000

int fsnotify_insert_event_enter(unsigned long long *ctx)
{
	struct op_rec *op = current_op();
	u64 event = ctx[1];

	if (!op || !op->active)
		return 0;
	op->group = ctx[0];
	op->event = event;
	op->read_ns = 0;
	events.update(&event, &op->tid);
#ifdef OFF_fanotify_event__mask
	/* Whom it wakes by that is asked. */
	if (read_u32(event + OFF_fanotify_event__mask) & FAN_PERMISSION_EVENTS)
		set_hops(1);
#endif
	return 0;
}

/* The listener takes an event out of its queue, to copy it to its own memory. */
int fsnotify_remove_first_event_exit(unsigned long long *ctx)
{
	u64 event = read_u64((u64)&ctx[1]);
	u32 *tid = events.lookup(&event);
	struct op_rec *op;

	if (!tid)
		return 0;
	op = op_of(*tid);
	if (op && op->event == event)
		op->read_ns = bpf_ktime_get_ns();
	events.delete(&event);
	note_asked(bpf_ktime_get_ns());
	return 0;
}

static __always_inline struct listener_rec *current_listener(u64 file)
{
	u64 group = read_u64(file + OFF_file__private_data);
	struct listener_rec first = {}, *rec = listeners.lookup(&group);
	struct proc_id id = {};

	proc_of(current_task(), &id);
	if (rec && is_process(&rec->proc, &id))
		return rec;
	note_current(&id);
	first.proc = id;
	listeners.update(&group, &first);
	return listeners.lookup(&group);
}

int fanotify_read_enter(unsigned long long *ctx)
{
	struct listener_rec *rec = current_listener(ctx[0]);

	note_not_asked();
	if (rec) {
		__sync_fetch_and_add(&rec->reads, 1);
		rec->last_read_ns = bpf_ktime_get_ns();
	}
	return 0;
}

int fanotify_write_enter(unsigned long long *ctx)
{
	struct listener_rec *rec = current_listener(ctx[0]);

	note_permitted();
	if (rec) {
		__sync_fetch_and_add(&rec->writes, 1);
		rec->last_write_ns = bpf_ktime_get_ns();
	}
	return 0;
}
