"""The RPC tasks of every client of this host, by the kernel's own lists.

The client's calls that were under way before recording began. A task is in its rpc_clnt's list,
but while it waits for a session slot on kernels with "SUNRPC: only put task on cl_tasks list
after the RPC call slot is reserved" (v6.14, and stable kernels): then NFS's slot tables and
the threads that wait for it lead to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tracer.kernel.memory import KernelMemory
from tracer.kernel.namespaces import Namespaces

# What has to be found in the kernel's symbols.
SYMBOLS: Final = ("bit_wait_table", "sunrpc_net_id", "nfs_net_id")

_SLOT_FIELDS: Final = (
    "nfs_net.nfs_client_list",
    "nfs_client.cl_share_link",
    "nfs_client.cl_session",
    "nfs_client.cl_slot_tbl",
    "nfs4_session.fc_slot_table",
    "nfs4_slot_table.slot_tbl_waitq",
    "rpc_wait_queue.tasks",
    "rpc_wait.list",
    "rpc_wait.links",
    "rpc_task.u",
)
_MOST: Final = 1 << 14
# WAIT_TABLE_SIZE of kernel/sched/wait_bit.c, since 5dd43ce2f69d (v4.13).
_BIT_WAIT_QUEUES: Final = 256
_PRIORITIES: Final = 4  # RPC_NR_PRIORITY
_LIST_BYTES: Final = 16
_SUNRPC_NET_BYTES: Final = 512
# A clone's parent may be a clone, too.
_MOST_PARENTS: Final = 4


class RpcTasks:
    """Finds every struct rpc_task of all network namespaces with a process."""

    def __init__(
        self, memory: KernelMemory, namespaces: Namespaces, symbols: Mapping[str, int]
    ) -> None:
        """``symbols``: the addresses of SYMBOLS, as far as there are such."""
        self._memory = memory
        self._namespaces = namespaces
        self._bit_waits = symbols.get("bit_wait_table")

    def find(self) -> set[int]:
        """Return their addresses."""
        memory = self._memory
        clients = set(self._clients())
        link = memory.offset("rpc_task.tk_task")
        found: set[int] = set()
        for client in clients:
            found.update(memory.list(client + memory.offset("rpc_clnt.cl_tasks"), link, _MOST))
        unlisted = {*self._awaited(), *self._without_slot()} - found
        return found | {
            task for task in unlisted if memory.u64(task, "rpc_task.tk_client") in clients
        }

    def _clients(self) -> Iterator[int]:
        """Yield every struct rpc_clnt: sunrpc's net_generic(net)->all_clients."""
        memory = self._memory
        for own in self._namespaces.of_module("sunrpc_net_id"):
            if memory.knows("sunrpc_net.all_clients"):
                head: int | None = own + memory.offset("sunrpc_net.all_clients")
            else:
                head = self._search_clients(own)
            if head:
                yield from memory.list(head, memory.offset("rpc_clnt.cl_clients"), _MOST)

    def _search_clients(self, own: int) -> int | None:
        """Return the list head in a struct sunrpc_net whose first entry is an rpc_clnt.

        For kernels that do not tell the struct's layout. A client's cl_parent leads to
        one that is its own parent, which nothing else does at that offset.
        """
        memory = self._memory
        for head in range(own, own + _SUNRPC_NET_BYTES, 8):
            entry = memory.u64(head)
            if not entry or entry == head or memory.u64(entry + 8) != head:
                continue
            client: int | None = entry - memory.offset("rpc_clnt.cl_clients")
            for _ in range(_MOST_PARENTS):
                parent = memory.u64(client, "rpc_clnt.cl_parent") if client else None
                if parent and parent == client:
                    return head
                client = parent
        return None

    def _awaited(self) -> Iterator[int]:
        """Yield what would be the rpc_task of each bit that a thread waits for."""
        memory, table = self._memory, self._bit_waits
        entry = memory.offset("wait_bit_queue_entry.wq_entry")
        link = entry + memory.offset("wait_queue_entry.entry")
        key = memory.offset("wait_bit_queue_entry.key") + memory.offset("wait_bit_key.flags")
        for index in range(_BIT_WAIT_QUEUES if table else 0):
            head = (table or 0) + index * memory.size("wait_queue_head")
            for waiting in memory.list(head + memory.offset("wait_queue_head.head"), link, _MOST):
                flags = memory.u64(waiting + key)
                if flags:
                    yield flags - memory.offset("rpc_task.tk_runstate")

    def _without_slot(self) -> Iterator[int]:
        """Yield each rpc_task that waits for a slot of its session, or of its NFSv4.0 client."""
        memory = self._memory
        if not memory.knows(*_SLOT_FIELDS):
            return
        link = memory.offset("nfs_client.cl_share_link")
        for own in self._namespaces.of_module("nfs_net_id"):
            for client in memory.list(own + memory.offset("nfs_net.nfs_client_list"), link, _MOST):
                session = memory.u64(client, "nfs_client.cl_session")
                if session:
                    yield from self._queued(session + memory.offset("nfs4_session.fc_slot_table"))
                elif table := memory.u64(client, "nfs_client.cl_slot_tbl"):
                    yield from self._queued(table)

    def _queued(self, table: int) -> Iterator[int]:
        """Yield the rpc_tasks in the rpc_wait_queue of a struct nfs4_slot_table."""
        memory = self._memory
        wait = memory.offset("rpc_task.u")
        listed, linked = (wait + memory.offset(f"rpc_wait.{name}") for name in ("list", "links"))
        queue = table + memory.offset("nfs4_slot_table.slot_tbl_waitq")
        for priority in range(_PRIORITIES):
            head = queue + memory.offset("rpc_wait_queue.tasks") + priority * _LIST_BYTES
            for first in memory.list(head, listed, _MOST):
                yield first
                # In the list stands an owner's first task; its others hang on that.
                yield from memory.list(first + linked, linked, _MOST)
