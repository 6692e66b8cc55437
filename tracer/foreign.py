"""Tells the BPF programs where code lies in which a thread is not at its own work.

That of out-of-tree modules, of BPF programs that are not ours, and of interrupts. As long as there
is any of the former, or interrupts take much of a CPU, what threads of operations do on one is
sampled; without that it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tracer.interrupts import Interrupts
from tracer.kernel import bpf
from tracer.kernel.on_demand import OnDemand
from tracer.owners import Owner
from tracer.procfs.held_open import Texts
from tracer.procfs.modules import out_of_tree

PROGRAM: Final = "on_hrtimer_expire_entry"
_ADDRESS_BITS: Final = 64
# systemd loads some of these on every host. They are run for processes of a cgroup, and not
# where NFS's threads pass.
_ELSEWHERE: Final = frozenset(
    {
        bpf.PROG_TYPE_CGROUP_SKB,
        bpf.PROG_TYPE_CGROUP_SOCK,
        bpf.PROG_TYPE_CGROUP_DEVICE,
        bpf.PROG_TYPE_CGROUP_SOCK_ADDR,
        bpf.PROG_TYPE_CGROUP_SYSCTL,
    }
)


@dataclass(frozen=True, slots=True)
class Owned:
    """Code between two addresses; ``owner`` is where its owner's code begins."""

    begin: int
    end: int
    owner: int


def prefixes(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest ``(address, leading bits)`` that cover ``begin``..``end`` exactly."""
    while begin < end:
        length = begin & -begin or 1 << _ADDRESS_BITS
        while length > end - begin:
            length >>= 1
        yield begin, _ADDRESS_BITS - (length.bit_length() - 1)
        begin += length


class ForeignCode:
    """Foreign code of this host, as it comes and goes."""

    def __init__(
        self, trie_fd: int, sampling: OnDemand, own: Iterable[int], interrupts: Interrupts
    ) -> None:
        """Take the trie to fill, the program that samples, and the ids of our programs."""
        self._trie = trie_fd
        self._sampling = sampling
        self._own = frozenset(own)
        self._interrupts = interrupts
        self._untold = list(interrupts.code)
        self._texts = Texts(("/proc/modules", "/proc/filesystems"))
        self._read: tuple[bytes, ...] = ()
        self._newest = 0  # id of a BPF program
        self._modules: dict[str, Owned] = {}
        self._programs: dict[int, list[Owned]] = {}
        # What is worth a word, once each, and what of it has not been told yet.
        self._noted: set[str] = set()
        self.notes: list[str] = []

    def follow(self) -> dict[int, Owner]:
        """Take in what came and went; return whose each new one is, by where it begins.

        What cannot be told for want of rights or room is in ``notes``.
        """
        found = {**self._of_interrupts(), **self._new_modules(), **self._new_programs()}
        if self._interrupts.take_much() or self._modules or self._programs:
            self._sampling.attach()
        else:
            self._sampling.detach()
        return found

    def close(self) -> None:
        """Sample no more."""
        self._sampling.detach()

    def _of_interrupts(self) -> dict[int, Owner]:
        """Return where the code of interrupts begins, once: it stays where it is."""
        new, self._untold = self._untold, []
        for begin, end in new:
            self._note(Owned(begin, end, begin))
        return {begin: Owner("irq", "softirq") for begin, _ in new}

    def _new_modules(self) -> dict[int, Owner]:
        texts = self._texts.read()
        if texts is None:
            self._say("modules cannot be listed")
        if texts is None or texts == self._read:
            return {}
        self._read = texts
        there = {
            one.name: Owned(one.begin, one.end, one.begin)
            for one in out_of_tree(*texts)
            if one.begin
        }
        for name, owned in self._modules.items():
            if there.get(name) != owned:
                self._forget(owned)
        new = {name: owned for name, owned in there.items() if self._modules.get(name) != owned}
        for owned in new.values():
            self._note(owned)
        self._modules = there
        return {owned.owner: Owner("module", name) for name, owned in new.items()}

    def _new_programs(self) -> dict[int, Owner]:
        for identifier in [one for one in self._programs if not bpf.program_exists(one)]:
            for owned in self._programs.pop(identifier):
                self._forget(owned)
        found: dict[int, Owner] = {}
        for identifier in self._new_ids():
            self._newest = identifier
            code = None if identifier in self._own else bpf.program_code(identifier)
            if code is None or not code.functions or code.type in _ELSEWHERE:
                continue
            owner = code.functions[0][0]
            parts = [Owned(begin, begin + length, owner) for begin, length in code.functions]
            self._programs[identifier] = parts
            for part in parts:
                self._note(part)
            found[owner] = Owner("bpf", code.name, identifier)
        return found

    def _new_ids(self) -> list[int]:
        try:
            return list(bpf.program_ids(self._newest))
        except OSError as error:
            self._say(f"BPF programs cannot be listed ({error.strerror}; CAP_SYS_ADMIN is needed)")
            return []

    def _say(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.notes.append(f"{text}: what such code takes of a CPU counts as running")

    def _note(self, owned: Owned) -> None:
        for address, bits in prefixes(owned.begin, owned.end):
            try:
                bpf.update(self._trie, _key(address, bits), owned.owner.to_bytes(8, "little"))
            except OSError:
                self._say("there are more modules and BPF programs than can be watched")
                return

    def _forget(self, owned: Owned) -> None:
        for address, bits in prefixes(owned.begin, owned.end):
            bpf.delete(self._trie, _key(address, bits))


def _key(address: int, bits: int) -> bytes:
    return bits.to_bytes(4, "little") + address.to_bytes(8, "big")
