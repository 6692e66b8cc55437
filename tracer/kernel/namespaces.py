"""What modules keep for each network namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tracer.kernel.memory import KernelMemory


class Namespaces:
    """The network namespaces of some tasks."""

    def __init__(
        self, memory: KernelMemory, tasks: Iterable[int], symbols: Mapping[str, int]
    ) -> None:
        """``tasks``: addresses of struct task_struct; ``symbols``: those of modules' ids."""
        self._memory = memory
        self._symbols = symbols
        proxies = {memory.u64(task, "task_struct.nsproxy") for task in tasks}
        nets = {memory.u64(proxy, "nsproxy.net_ns") for proxy in proxies if proxy}
        self._nets = {net for net in nets if net}

    def of_module(self, symbol: str) -> Iterator[int]:
        """Yield a module's own struct of each namespace: net_generic(net, *symbol)."""
        memory = self._memory
        identifier = memory.u32(self._symbols[symbol]) if symbol in self._symbols else None
        for net in self._nets if identifier else ():
            generic = memory.u64(net, "net.gen")
            # struct net_generic is an array of pointers, indexed from its beginning.
            own = memory.u64(generic + 8 * (identifier or 0)) if generic else None
            if own:
                yield own
