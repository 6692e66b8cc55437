/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* bcc asks for these; nothing of ours depends on a kernel version. */
#define LINUX_VERSION_CODE 0x060100
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
