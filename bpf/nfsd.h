/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What only nfsd's own types tell, and what is done without where they are not known. */

#ifdef SIZE_nfsd4_op
/* struct nfsd4_op[] of a request that is a COMPOUND. */
static __always_inline u64 compound_ops(u64 rqst)
{
	return read_u64(read_u64(rqst + OFF_svc_rqst__rq_argp) + OFF_nfsd4_compoundargs__ops);
}

static __always_inline u64 compound_op_name(u64 ops, u32 index)
{
	u64 opdesc = read_u64(ops + index * SIZE_nfsd4_op + OFF_nfsd4_op__opdesc);

	return opdesc ? read_u64(opdesc + OFF_nfsd4_operation__op_name) : 0;
}
#else
/* An operation has a name when it ends: the trace event brings it. */
#define compound_ops(rqst) 0
#define compound_op_name(ops, index) 0
#endif

#if defined(OFF_nfs4_stid__sc_client) && defined(OFF_nfs4_client__cl_addr)
static __always_inline void peer_of_stid(u64 stid, u8 *peer)
{
	u64 client = read_u64(stid + OFF_nfs4_stid__sc_client);

	read_peer(client + OFF_nfs4_client__cl_addr, peer);
}
#else
#define peer_of_stid(stid, peer)
#endif

/*
 * The client that has a byte-range lock which is in another's way; true if that one is its, too.
 * Where an owner has its client, and that its address, depends on whose fl_owners they are.
 */
static __always_inline bool holder_of(u64 holder, u64 asker, u32 client_at, u32 address_at,
				      u8 *peer)
{
	u64 client = read_u64(holder + client_at);

	read_peer(client + address_at, peer);
	return client == read_u64(asker + client_at);
}

/* nfsd's are struct nfs4_lockowner *. */
#if defined(OFF_nfs4_stateowner__so_client) && defined(OFF_nfs4_client__cl_addr)
#define nfs4_holder(holder, asker, peer)                                                       \
	holder_of(holder, asker, OFF_nfs4_stateowner__so_client, OFF_nfs4_client__cl_addr, peer)
#else
#define nfs4_holder(holder, asker, peer) false
#endif

/* And lockd's struct nlm_lockowner *. */
#if defined(OFF_nlm_lockowner__host) && defined(OFF_nlm_host__h_addr)
#define nlm_holder(holder, asker, peer)                                                        \
	holder_of(holder, asker, OFF_nlm_lockowner__host, OFF_nlm_host__h_addr, peer)
#else
#define nlm_holder(holder, asker, peer) false
#endif
