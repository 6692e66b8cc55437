// SPDX-License-Identifier: GPL-2.0
/*
 * hook: an agent's kernel module that has nfsd's threads wait at each file they open.
 *
 *   insmod hook.ko wait_ms=MS [spins=1]
 *
 * It stands in for security_file_open(), sleeps or works there, and calls it. What that took
 * in all, by its own clock, is in /sys/module/hook/parameters/total_us.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/sched.h>

static unsigned int wait_ms = 300;
module_param(wait_ms, uint, 0444);
static bool spins;
module_param(spins, bool, 0444);
static unsigned long total_us;
module_param(total_us, ulong, 0444);

static int (*real_open)(struct file *file);

static noinline int hook_open(struct file *file)
{
	ktime_t begin = ktime_get();
	int error;

	if (!strcmp(current->comm, "nfsd")) {
		if (!spins)
			msleep(wait_ms);
		while (ktime_to_ms(ktime_sub(ktime_get(), begin)) < wait_ms)
			cpu_relax();
		total_us += ktime_to_us(ktime_sub(ktime_get(), begin));
	}
	error = real_open(file);
	/* No tail call: who called is how divert() knows this one. */
	barrier();
	return error;
}

static void notrace divert(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
			   struct ftrace_regs *fregs)
{
	if (within_module(parent_ip, THIS_MODULE))
		return;
	real_open = (void *)ip;
	ftrace_get_regs(fregs)->ip = (unsigned long)hook_open;
}

static struct ftrace_ops ops = {
	.func = divert,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY,
};

static int __init hook_init(void)
{
	static char name[] = "security_file_open";
	int error = ftrace_set_filter(&ops, name, sizeof(name) - 1, 0);

	return error ?: register_ftrace_function(&ops);
}
module_init(hook_init);

static void __exit hook_exit(void)
{
	unregister_ftrace_function(&ops);
}
module_exit(hook_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("stands in the way of opens, for tests of nfsblame");
