/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* From a server's transport to its socket. */

#ifdef OFF_svc_sock__sk_sk
static __always_inline u64 socket_of(u64 xprt)
{
	return read_u64(xprt + OFF_svc_sock__sk_sk - OFF_svc_sock__sk_xprt);
}
#else
/*
 * No type information of sunrpc: among the words of the transport, and of the struct
 * svc_sock around it, the pointer to the socket is the one to something whose
 * sk_user_data points back. 0 if there is none, reading from which is a loss.
 */
#define SVC_SOCK_WORDS 256

static __always_inline u64 socket_of(u64 xprt)
{
	for (u32 i = 1; i < SVC_SOCK_WORDS; i++) {
		u64 sock = 0, back = 0;

		/* What is no pointer cannot be read, which is no loss. */
		bpf_probe_read_kernel(&sock, sizeof(sock), (void *)(xprt + 8 * i));
		bpf_probe_read_kernel(&back, sizeof(back),
				      (void *)(sock + OFF_sock__sk_user_data));
		if (back == xprt)
			return sock;
	}
	return 0;
}
#endif
