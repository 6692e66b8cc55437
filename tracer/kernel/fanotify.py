"""fanotify groups as the kernel has them: who holds one, who waits for its answer, and for what.

Needs no /proc, so it works in the collector, which opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from tracer.kernel import tasks
from tracer.kernel.memory import KernelMemory

# FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM, FAN_PRE_ACCESS
PERMISSIONS: Final = 0x170000

_EVENT_FIELDS: Final = (
    "fsnotify_group.notification_list",
    "fsnotify_event.list",
    "fanotify_event.mask",
    "fanotify_event.pid",
    "fanotify_perm_event.path",
    "pid.numbers",
    "super_block.s_magic",
)
_NFS_SUPER_MAGIC: Final = 0x6969
_MOST: Final = 1 << 17


class PermissionEvent(NamedTuple):
    """An event of which a group is asked for permission: by which process or thread, and where.

    ``device``: s_dev of the NFS mount; None for a file of another filesystem.
    """

    pid: int
    device: int | None


def waiting_for(memory: KernelMemory, group: int) -> Iterator[int]:
    """Yield the task_struct of each task that waits for a fanotify group's answer."""
    head = (
        group
        + memory.offset("fsnotify_group.fanotify_data")
        + memory.offset("fanotify_group_private_data.access_waitq")
        + memory.offset("wait_queue_head.head")
    )
    for entry in memory.list(head, memory.offset("wait_queue_entry.entry"), _MOST):
        task = memory.u64(entry, "wait_queue_entry.private")
        if task:
            yield task


def holders_of(memory: KernelMemory, group: int) -> Iterator[tuple[int, int]]:
    """Yield (pid, start in ns) of each process that has a descriptor of a fanotify group."""
    for pid, task in tasks.walk(memory):
        if any(
            memory.u64(file, "file.private_data") == group for file in tasks.files(memory, task)
        ):
            yield pid, tasks.start_ns(memory, task)


def unanswered(memory: KernelMemory, group: int) -> Iterator[int]:
    """Yield the events that have been read and not been answered."""
    data = group + memory.offset("fsnotify_group.fanotify_data")
    head = data + memory.offset("fanotify_group_private_data.access_list")
    # The first of an event of fanotify is one of fsnotify, whose link need not be known.
    yield from memory.list(head, 0, _MOST)


def permission_events(memory: KernelMemory, group: int) -> Iterator[PermissionEvent]:
    """Yield what a group is asked for, read or not; nothing if the kernel's types lack it."""
    if not memory.knows(*_EVENT_FIELDS):
        return
    link = memory.offset("fsnotify_event.list")
    unread = memory.list(group + memory.offset("fsnotify_group.notification_list"), link, _MOST)
    for event in (*unread, *(linked - link for linked in unanswered(memory, group))):
        if (memory.u32(event, "fanotify_event.mask") or 0) & PERMISSIONS:
            asker = memory.u64(event, "fanotify_event.pid")
            # Of struct upid numbers[0], the number comes first.
            number = memory.u32(asker, "pid.numbers") if asker else None
            if number:
                yield PermissionEvent(number, _nfs_device(memory, event))


def _nfs_device(memory: KernelMemory, event: int) -> int | None:
    path = event + memory.offset("fanotify_perm_event.path")
    dentry = memory.u64(path, "path.dentry")
    filesystem = memory.u64(dentry, "dentry.d_sb") if dentry else None
    if not filesystem or memory.u64(filesystem, "super_block.s_magic") != _NFS_SUPER_MAGIC:
        return None
    return memory.u32(filesystem, "super_block.s_dev")
