/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Records that leave the kernel, in maps or through the ring buffer. The Python
 * twins are in tracer/records.py; a unit test compiles this header natively and
 * compares every size and offset. Padding is explicit: what is copied to user
 * space must be zeroed memory of ours, never what lay there before.
 *
 * All times are CLOCK_MONOTONIC nanoseconds (bpf_ktime_get_ns) unless named
 * otherwise; process starts are CLOCK_BOOTTIME nanoseconds.
 */
#ifndef NFSBLAME_RECORDS_H
#define NFSBLAME_RECORDS_H

#define SIDE_SERVER 1
#define SIDE_CLIENT 2

#define LAYER_RPC 1
#define LAYER_NFS 2
#define LAYER_VFS 3
#define LAYER_HOOK 4
#define LAYER_KERNEL 5
#define LAYER_ANSWER 6
#define LAYER_BETWEEN 7

#define WAIT_BLOCKED 1
#define WAIT_RUNNABLE 2
#define WAIT_THROTTLED 3 /* its cgroup has used up its CPU quota */
#define WAIT_HELD 4	 /* a packet: a process has to decide on it */
#define WAIT_RUNNING 5	 /* on a CPU, in code that is not the kernel's own */
#define WAIT_RECLAIMING 6 /* frees memory of the host, on a CPU or asleep */
#define WAIT_LIMITED 7	 /* the same, as its cgroup has reached its limit */

#define MAX_WAITS 8
/* Of a stack. */
#define MAX_FRAMES 127

/* off_stack and stack: nobody has looked (yet). */
#define NO_STACK -1
/* x86's call of a function at a distance from the next instruction. */
#define CALL_REL32 0xe8
/*
 * Ids of stacks in `more_stacks` start here, above all slots of `stacks`: first those whose slot
 * another has taken, then those of threads that were asleep when they were read.
 */
#define FIRST_CROWDED (1 << 29)
#define FIRST_SLEEPER (1 << 30)

#define OP_IN_FLIGHT 1	   /* set by the collector on rows it read from `threads` */
#define OP_BEGIN_UNKNOWN 2 /* began before recording, at a time unknown */
#define OP_DROPPED 4	   /* server: there will be no reply */
#define RPC_ENDED 8	   /* stays in `rpcs` only: the task may be restarted */
#define OP_KERNEL 16	   /* no operation: a kernel thread on the way of all of them */
#define OP_ANSWER 32	   /* no operation: what a thread did until another could go on */
#define OP_NFS3 64	   /* server: of NFSv3, whose reply begins with its status */
#define OP_AWAITS 128	   /* set by the collector: waker has the other end of what it reads */

/*
 * op_rec.watched: what the thread waits for is recorded, for others have waited for it. The
 * threads between an operation and it, itself counted, and:
 */
#define ASKED 128 /* it has read a permission event that an operation waits for */
#define MAX_HOPS 4

/*
 * op_rec.taken: why a server's thread that is in no operation is not free. It reads from a
 * transport, has read a request and does not know yet what it is, or waits between two, which is
 * a record of its own.
 */
#define HAS_TRANSPORT 1
#define HAS_REQUEST 2
#define BETWEEN_REQUESTS 3

/* Parts of the name of a server's file: its own, its folder's, and so on upwards. */
#define NAME_PARTS 4
#define NAME_PART_LEN 40

/* A process for good: pid and start. */
struct proc_id {
	u64 start_ns;
	u32 tgid;
	u32 pad;
};

/* Waits of one thread in one operation on the same stack, waker and group. */
struct wait_rec {
	struct proc_id waker; /* WAIT_RUNNABLE: who had the CPU for that time */
	u64 group; /* struct fsnotify_group * it last queued an event for; 0 = none;
		      WAIT_RUNNING: where the code of the owner begins */
	u64 first_ns;
	u64 last_ns;
	u64 total_ns;
	u64 max_ns;
	u64 unread_ns; /* of total_ns: nobody had read the group's event yet */
	s32 stack;     /* id in `stacks`, negative errno if the stack could not be kept */
	s32 waker_stack; /* at the end of the longest of them */
	u32 count;
	u32 kind;
	u32 waker_tid; /* the thread of the waker that ended the last of them; 0 = unknown */
	u32 pad;
};

/* An operation of a thread: an RPC served (server) or a VFS call (client). */
struct op_rec {
	u64 op_id;
	u64 arrival_ns; /* server: last byte in the socket; 0 = not seen */
	u64 begin_ns;	/* thread took it up; client: call entered */
	u64 reply_ns;	/* server: execution over, reply goes to the socket */
	u64 end_ns;	/* 0 while in flight */
	u64 op;		/* char * of the RPC procedure's name, or VFS op number */
	u64 nfs_op;	/* char * of the COMPOUND's operation running now */
	u64 nfs_begin_ns;
	u64 nfs_longest;    /* char * of the longest one that ended */
	u64 nfs_longest_ns;
	u64 ops;  /* server: struct nfsd4_op[] of the COMPOUND */
	u64 xprt; /* server: struct svc_xprt * that its thread took up */
	u64 mark; /* client: of the system call, see syscall_mark(); 0 = none */
	/* the wait going on now; off_ns == 0: the thread is on a CPU */
	u64 off_ns;
	u64 on_ns; /* on a CPU since then, or looked at there */
	u64 waking_ns;
	struct proc_id waker;
	u64 group;
	u64 event;    /* struct fsnotify_event * last queued there */
	u64 read_ns;  /* when it was read; 0 = not yet */
	u64 asked_ns; /* waited for groups since hook_ns */
	u64 waits_lost_ns;
	u64 queued_ns; /* in the run queue of its CPU since then; 0 = it is not */
	u64 cfs_rq;    /* struct cfs_rq * of its cgroup there; 0 = unknown */
	u64 throttled; /* how long that had been throttled when it was queued */
	/* the VFS call and the hook that it is in now; their begin is 0 outside of one */
	u64 call_ns;
	u64 hook_ns;
	u32 call;
	u32 hook;
	/* it frees memory since then, and what it had waited for by then; 0: it does not */
	u64 reclaim_ns;
	u64 reclaim_waited_ns;
	u32 reclaim_kind;
	u32 slot; /* of the waits, the one in hand: see wait_at() */
	struct proc_id proc;
	u64 dev;    /* s_dev of the mount (client) or of the file (server) */
	u64 dentry; /* server: the file; only while the operation holds it */
	u64 ino;    /* server: its inode number; 0 = none */
	s32 off_stack;
	s32 waker_stack;
	u32 off_kind;
	u32 tid;
	u32 xid;
	s32 status;
	u32 flags;
	u32 nwaits;
	u32 nfs_status; /* server: NFS3ERR_ or NFS4ERR_ of the reply */
	u32 call_dev;	/* s_dev, for a call outside of an operation */
	u32 waker_tid;
	u16 counted;	/* in `watching` */
	u16 at_work;	/* in `crew` */
	u32 rtt_us;	/* server: TCP's round trip time of its connection; 0 = unknown */
	u32 pad;
	u8 peer[16];	/* IPv6, or IPv4 mapped; zero = unknown */
	u8 side;
	u8 active;
	u8 depth;
	u8 call_depth;
	u8 early;  /* server, between operations: waits has those since it was last idle */
	u8 nearly; /* so many of waits are from before the operation began */
	u8 taken;  /* server: HAS_TRANSPORT and so on; 0 = in an operation, or free */
	u8 watched; /* hops, ASKED */
	char comm[16];
	char name[NAME_PARTS][NAME_PART_LEN]; /* server, slow operations; empty = unknown */
	struct wait_rec waits[MAX_WAITS];
};

/* An RPC of a client, from submission to the end of the task. */
struct rpc_rec {
	u64 op_id;
	u64 parent_id; /* op_id of the VFS call it was submitted in; 0 = none */
	u64 begin_ns;	 /* kernel's tk_start */
	u64 reserved_ns; /* slots are there, an xid is assigned */
	u64 sent_ns;	 /* kernel's rq_xtime of the first transmission; 0 = not yet sent */
	u64 reply_ns;	 /* kernel's rq_xtime + rq_rtt; 0 = no reply yet */
	u64 end_ns;	 /* 0 while in flight */
	u64 op;		 /* char * of the procedure's name */
	u64 dev;
	struct proc_id proc; /* submitter; tgid 0 = none (background work) */
	struct proc_id writer; /* writeback: who wrote to the file last */
	u32 tid;
	u32 xid;
	u32 transmits;
	s32 status;
	u8 peer[16];
	u32 flags;
	s32 before; /* status of the try before, if it is sent again; 0 = it is not, or success */
	char comm[16];
};

struct latency_key {
	u64 op;
	struct proc_id proc;
	u8 peer[16];
	u32 dev;
	u16 bucket;
	u8 side;
	u8 layer;
};

struct latency_val {
	u64 count;
	u64 sum_ns;
	u64 max_ns;
	u64 rpc_bytes; /* sent and received */
};

/* By a hash of the key: shorter to look up than itself. */
struct latency_rec {
	struct latency_key key;
	struct latency_val val;
};

/* Waits of operations that were not sent one by one. */
struct wait_key {
	u64 op;
	struct proc_id waker;
	u64 group;
	s32 stack;
	s32 waker_stack;
	u32 kind;
	u32 side;
};

struct wait_val {
	u64 count;
	u64 total_ns;
	u64 max_ns;
	u64 unread_ns;
};

/*
 * What a process had of a disk (its time), of a filesystem's journal (blocks) or of the host's
 * memory (pages, signed: less those it gave back), in a slot of time.
 */
#define USE_DISK 1 /* to read */
#define USE_JOURNAL 2
#define USE_MEMORY 3
#define USE_DISK_WRITE 4
#define USE_SLOT_SHIFT 26 /* 67 ms: short beside an operation that is slow */
struct use_key {
	u64 slot; /* of CLOCK_MONOTONIC: ns >> USE_SLOT_SHIFT */
	struct proc_id proc;
	u8 client[16]; /* at whose request nfsd uses a disk; zero = at nobody's, or unknown */
	u32 dev;
	u32 kind;
};

struct use_val {
	u64 count;
	u64 amount;
	u64 most; /* at once */
	/* Of a disk: how long its requests took since they were made, and what they moved. */
	u64 queued_ns;
	u64 moved_bytes;
};

/* Things that happened, counted by interval. Value: u64. */
enum count_kind {
	COUNT_STATUS,	   /* a reply other than OK; status: the protocol's number, or errno */
	COUNT_DROPPED,	   /* a request that got no reply */
	COUNT_DEFERRED,	   /* a request put off until an upcall is answered */
	COUNT_REPLY_CACHE, /* duplicate request; status: 0 dropped, 1 answered from the cache */
	COUNT_FILE,	   /* file wanted from nfsd's file cache */
	COUNT_FILE_OPENED, /* it was not there and has been opened */
	COUNT_RECALL,	   /* delegation recalled from the client */
	COUNT_RETRANSMIT,
	COUNT_TIMEOUT,
	COUNT_CONNECT,	  /* connection to a server made; status: errno */
	COUNT_DISCONNECT, /* connection to a server lost */
	COUNT_CONFLICT,	  /* a byte-range lock was refused for one that the client holds */
};

struct count_key {
	u64 op; /* char * of the operation's name; 0 = none */
	u8 peer[16];
	u32 kind;
	s32 status;
	u32 side;
	u32 pad;
};

/* First sight of a process: enough to name it after it has ended. */
struct proc_rec {
	char comm[16];	   /* main thread's */
	char exe[32];	   /* base name of the executable; empty: kernel thread, or ending */
	u64 cgroup_id;
	u32 uid;
	u32 ppid;
	u32 kthread;
	u32 pad;
};

/* Who reads and answers a fanotify group. Key: struct fsnotify_group *. */
struct listener_rec {
	struct proc_id proc;
	u64 reads;
	u64 writes;
	u64 last_read_ns;
	u64 last_write_ns;
};

/* Who keeps a filesystem frozen. */
struct holder_rec {
	struct proc_id proc;
	u64 since_ns;
	u64 until_ns; /* 0 while it does */
	u64 dev;
};

/* A packet of NFS that a process has to decide on. */
struct held_rec {
	u64 op_id;
	u64 since_ns;
	u8 peer[16]; /* the other host */
	u32 side;
	u32 flags; /* OP_BEGIN_UNKNOWN: since_ns is when it was found */
};

/* A request, by whoever has sent it. */
struct request_key {
	u8 peer[16];
	u32 xid;
	u32 pad;
};

/* It was put off until an upcall is answered. */
struct deferred_rec {
	u64 op_id;
	u64 arrival_ns;
	s32 stack;
	u32 flags; /* OP_BEGIN_UNKNOWN: arrival_ns is when it was found */
};

/* nfsd's threads. */
struct crew_rec {
	u64 busy;     /* that have begun to work, less those that have ended */
	u64 since_ns; /* none has been free since then; 0 = one is */
	u64 none_ns;  /* how long none was, before that */
	u64 times;    /* how often none was */
};

struct crew_size {
	u64 threads;  /* that there are; 0 = unknown */
	u64 before;   /* of them, at work before recording began: not in busy until they have ended */
	u64 begun_ns; /* no thread has been free since recording began; 0 = one was */
};

/* Reasons why something was not recorded; counted in `lost`. */
enum loss {
	LOSS_RING_FULL,	      /* slow-operation record, ring buffer full */
	LOSS_LATENCY_FULL,    /* histogram map full */
	LOSS_WAITS_FULL,      /* interval wait map full */
	LOSS_THREADS_FULL,    /* more threads in operations than the map holds */
	LOSS_RPCS_FULL,	      /* more RPCs in flight than the map holds */
	LOSS_XPRTS_FULL,      /* more transports than the map holds */
	LOSS_PROCS_FULL,      /* more processes than the map holds */
	LOSS_STACK,	      /* kernel stack could not be kept */
	LOSS_WAIT_SLOTS,      /* operation with more than MAX_WAITS kinds of waits */
	LOSS_COUNTS_FULL,     /* map of things that happened full */
	LOSS_READ,	      /* kernel memory could not be read */
	LOSS_PACKETS_FULL,    /* map of packets that are held full */
	LOSS_EXIT,	      /* end of a client's call was not seen */
	LOSS_USES_FULL,	      /* map of who uses disks, journals and memory full */
	LOSS_MAX,
};

#endif
