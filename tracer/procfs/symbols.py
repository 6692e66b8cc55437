"""Kernel addresses to function names, from the text of /proc/kallsyms.

Names are what the source calls them: suffixes the compiler added (``.isra.0``)
go, and so do the frames of the BPF program that took the stack.
"""

from __future__ import annotations

import io
import re
from array import array
from bisect import bisect_right
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tracer.procfs.modules import Module, out_of_tree
from tracer.rows.text import decoded

_SUFFIX: Final = re.compile(r"(\.(isra|constprop|part|cold|llvm|lto_priv)(\.\d+)?)+$")
_OFFSET: Final = re.compile(r"\+0x[0-9a-f]+(/0x[0-9a-f]+)?$")
_MACHINERY: Final = re.compile(
    r"bpf_prog_|bpf_trace_run|__bpf_|bpf_get_stack|__traceiter_|bpf_trampoline|\w*trampoline"
    r"|trace_call_bpf|kprobe_(perf_func|dispatcher|ftrace_handler|multi_link)|kretprobe_"
    r"|aggr_pre_handler|opt_pre_handler|optimized_callback|perf_trace_|fprobe_"
)
# No kernel function is longer; what is further from its symbol belongs to none.
_FURTHEST: Final = 1 << 20
_LONGEST: Final = 512  # KSYM_NAME_LEN


class SymbolTable:
    """The text symbols of one reading of /proc/kallsyms.

    Names stay where they are in the text: 100 000 Python strings would be 8 MB more.
    """

    def __init__(self, kallsyms: bytes, foreign: Collection[Module] = ()) -> None:
        """``foreign``: modules whose functions' names are to say so: "function [module]"."""
        addresses = array("Q")
        names = array("I")  # where in `kallsyms` the name begins
        offset = 0
        for line in io.BytesIO(kallsyms):
            parts = line.split(None, 3)
            if len(parts) >= 3 and parts[1] in b"tTwW" and parts[0].strip(b"0"):
                addresses.append(int(parts[0], 16))
                names.append(offset + line.index(parts[2], len(parts[0]) + 2))
            offset += len(line)
        order = sorted(range(len(addresses)), key=addresses.__getitem__)
        self._addresses = array("Q", (addresses[index] for index in order))
        self._names = array("I", (names[index] for index in order))
        self._text = kallsyms
        self._foreign = foreign

    def __len__(self) -> int:
        return len(self._addresses)

    def name(self, address: int) -> str | None:
        """Return the function that holds ``address``, None if no symbol is near before it."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or address - self._addresses[index] > _FURTHEST:
            return None
        # Several symbols may share an address: the first is as good as any, and stable.
        while index and self._addresses[index - 1] == self._addresses[index]:
            index -= 1
        start = self._names[index]
        name = decoded(self._text[start : start + _LONGEST].split(None, 1)[0])
        for module in self._foreign:
            if module.begin <= address < module.end:
                return f"{_SUFFIX.sub('', name)} [{module.name}]"
        return name


class KernelSymbols:
    """Names kernel stacks; reads kallsyms when first needed and when modules have changed.

    A module that was loaded later would lie between two old ones and take their
    names, so the list of modules is compared before each use: it is short.
    """

    def __init__(self, proc_root: Path = Path("/proc")) -> None:
        self._root = proc_root
        self._modules: frozenset[tuple[bytes, bytes]] | None = None
        self._table = SymbolTable(b"")

    def refresh(self) -> None:
        """Read kallsyms again if modules were loaded since. Unreadable: addresses stay hex."""
        text = _read(self._root / "modules")
        modules = frozenset(
            (fields[0], fields[5])
            for fields in (line.split() for line in text.splitlines())
            if len(fields) >= 6
        )
        if self._modules is None or not modules <= self._modules:
            foreign = out_of_tree(text, _read(self._root / "filesystems"))
            self._table = SymbolTable(_read(self._root / "kallsyms"), foreign)
        self._modules = modules

    def frames(self, addresses: Sequence[int], *, asleep: bool) -> tuple[str, ...]:
        """Return the function names of a stack, innermost first, without BPF's own frames.

        ``asleep``: it was read by another thread than its own.
        """
        names = [self._table.name(address) or f"0x{address:x}" for address in addresses]
        return tidy(names, asleep=asleep)


class Extent(NamedTuple):
    """Where a symbol begins, and where the next one does."""

    begin: int
    end: int


def extents_of(names: Collection[str], proc_root: Path = Path("/proc")) -> dict[str, Extent]:
    """Return where each of these symbols lies that the kernel has and shows.

    Searched for in the text as a whole, which is in the order of addresses: to take 200,000 lines
    apart takes seconds on a slow host.
    """
    text = _read(proc_root / "kallsyms")
    found: dict[str, Extent] = {}
    for name in names:
        # Of a module behind a tab stands which: "ffffffffc0a3d0e4 b sunrpc_net_id\t[sunrpc]"
        ends = (text.find(f" {name}{end}".encode()) for end in "\t\n")
        at = max(ends)
        begin = _address_at(text, text.rfind(b"\n", 0, at) + 1) if at >= 0 else 0
        # All are 0 to who may not see them.
        if begin:
            found[name] = Extent(begin, _next_address(text, at, begin))
    return found


def _address_at(text: bytes, start: int) -> int:
    """Return the address with which a line begins, 0 if there is none."""
    word = text[start : start + 17].split(b" ", 1)[0]
    return int(word, 16) if word else 0


def _next_address(text: bytes, at: int, begin: int) -> int:
    """Return the first address after ``begin`` on a line after ``at``; at the end there is none."""
    while (at := text.find(b"\n", at) + 1) and at < len(text):
        address = _address_at(text, at)
        if address != begin:
            return max(address, begin)
    return begin


def tidy(names: Sequence[str], *, asleep: bool = False) -> tuple[str, ...]:
    """Return a stack's names without the compiler's suffixes and BPF's own leading frames."""
    plain = [_SUFFIX.sub("", _OFFSET.sub("", name)) for name in names]
    # The first that called a function through a trampoline is where it sleeps.
    if asleep:
        return _without_trampolines(plain)
    first = 0
    # The program itself is innermost; kernels may not name it (bpf_jit_kallsyms=0),
    # so look for what called it in the first few frames. A thread that waits is in
    # __schedule there, so a BPF program deeper in its stack stays.
    for index, name in enumerate(plain[:3]):
        if _MACHINERY.match(name):
            first = index
            while first < len(plain) and _MACHINERY.match(plain[first]):
                first += 1
            break
        if name in ("__schedule", "schedule"):
            break
    return _without_trampolines(plain[first:])


def _without_trampolines(names: Sequence[str]) -> tuple[str, ...]:
    """Return a stack in which a function that fentry is attached to stands once.

    Such a function calls a trampoline that calls the rest of it: f, bpf_trampoline_N, f.
    """
    kept: list[str] = []
    skip = False
    for index, name in enumerate(names):
        if skip:
            skip = False
        elif name.startswith("bpf_trampoline_") and kept[-1:] == list(names[index + 1 : index + 2]):
            skip = True
        else:
            kept.append(name)
    return tuple(kept)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
