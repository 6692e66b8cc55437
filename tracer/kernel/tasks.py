"""Processes and fanotify groups as the kernel's own lists have them.

Needs no /proc, so it works in the collector, which opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tracer.kernel.memory import KernelMemory

MOST_TASKS: Final = 1 << 17
_MOST_FDS: Final = 1 << 16


def walk(memory: KernelMemory) -> Iterator[tuple[int, int]]:
    """Yield (pid, task_struct) of every process."""
    first = memory.u64(memory.current_task(), "task_struct.group_leader")
    if first is None:
        return
    link = memory.offset("task_struct.tasks")
    for task in (first, *memory.list(first + link, link, MOST_TASKS)):
        pid = memory.u32(task, "task_struct.pid")
        if pid:
            yield pid, task


def start_ns(memory: KernelMemory, leader: int) -> int:
    """Return a process's start in CLOCK_BOOTTIME ns, from its main thread's task."""
    return memory.u64(leader, "task_struct.start_boottime") or 0


def waiting_for(memory: KernelMemory, group: int) -> Iterator[int]:
    """Yield the task_struct of each task that waits for a fanotify group's answer."""
    head = (
        group
        + memory.offset("fsnotify_group.fanotify_data")
        + memory.offset("fanotify_group_private_data.access_waitq")
        + memory.offset("wait_queue_head.head")
    )
    for entry in memory.list(head, memory.offset("wait_queue_entry.entry"), MOST_TASKS):
        task = memory.u64(entry, "wait_queue_entry.private")
        if task:
            yield task


def holders_of(memory: KernelMemory, group: int) -> Iterator[tuple[int, int]]:
    """Yield (pid, start in ns) of each process that has a descriptor of a fanotify group."""
    for pid, task in walk(memory):
        if any(memory.u64(file, "file.private_data") == group for file in _files(memory, task)):
            yield pid, start_ns(memory, task)


def _files(memory: KernelMemory, task: int) -> Iterator[int]:
    """Yield the struct file of each descriptor of a process."""
    files = memory.u64(task, "task_struct.files")
    table = memory.u64(files, "files_struct.fdt") if files else None
    array = memory.u64(table, "fdtable.fd") if table else None
    if not table or not array:
        return
    count = min(memory.u32(table, "fdtable.max_fds") or 0, _MOST_FDS)
    yield from memory.pointers(array, count)
