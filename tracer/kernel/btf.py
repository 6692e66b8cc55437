"""The kernel's type information, read with libbpf (which libbcc brings along).

Offsets, sizes and function signatures come from here instead of headers, so a
program compiled against the shim fits the running kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

_KIND_PTR: Final = 2
_KIND_STRUCT: Final = 4
_KIND_UNION: Final = 5
_KIND_TYPEDEF: Final = 8
_KIND_FUNC: Final = 12
_MODIFIERS: Final = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag


class _Type(ctypes.Structure):
    _fields_ = [("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32)]


class _Member(ctypes.Structure):
    _fields_ = [
        ("name_off", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
    ]


class _Param(ctypes.Structure):
    _fields_ = [("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32)]


def _libbpf() -> ctypes.CDLL:
    for name in ("libbpf.so.1", "libbpf.so.0", "libbpf.so"):
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        library.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        library.btf__load_module_btf.restype = ctypes.c_void_p
        library.btf__load_module_btf.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        library.btf__find_by_name_kind.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_uint32,
        ]
        library.btf__type_by_id.restype = ctypes.c_void_p
        library.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        library.btf__name_by_offset.restype = ctypes.c_char_p
        library.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        return library
    raise OSError("libbpf not found; it comes with bcc (Debian: libbpf1)")


# An error pointer of the kernel's kind: libbpf 0.x returns them instead of NULL.
_ERROR_POINTERS: Final = (1 << 64) - 4096


class Btf:
    """Types of vmlinux and of the modules that have BTF.

    Raises OSError if there is no libbpf or the kernel has no BTF.
    """

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._library = _libbpf()
        base = self._library.btf__load_vmlinux_btf()
        if not base or base >= _ERROR_POINTERS:
            raise OSError("the kernel has no BTF (/sys/kernel/btf/vmlinux)")
        self._handles: dict[str, int] = {"vmlinux": base}
        # A search is linear in 150,000 types, and the same things are asked for again.
        self._found: dict[tuple[str, int], tuple[int, int] | None] = {}
        self._identifiers: dict[tuple[str, str, int], int | None] = {}
        for module in modules:
            handle = self._library.btf__load_module_btf(module.encode(), base)
            if handle and handle < _ERROR_POINTERS:
                self._handles[module] = handle

    @property
    def modules(self) -> frozenset[str]:
        """Names of the BTF objects that could be read, ``vmlinux`` among them."""
        return frozenset(self._handles)

    def _find(self, name: str, kind: int) -> tuple[int, int] | None:
        """Return (handle, type id) of a named type in whichever object defines it."""
        if (name, kind) not in self._found:
            self._found[name, kind] = self._search(name, kind)
        return self._found[name, kind]

    def _search(self, name: str, kind: int) -> tuple[int, int] | None:
        for handle in self._handles.values():
            found = self._library.btf__find_by_name_kind(handle, name.encode(), kind)
            if found > 0:
                return handle, found
        return None

    def _type(self, handle: int, identifier: int) -> tuple[_Type, int]:
        address = self._library.btf__type_by_id(handle, identifier)
        return _Type.from_address(address), address

    def _name(self, handle: int, offset: int) -> str:
        return (self._library.btf__name_by_offset(handle, offset) or b"").decode()

    def _members(self, handle: int, identifier: int) -> Iterator[tuple[str, int, int]]:
        """Yield (name, type id, bit offset) of a struct's members."""
        type_, address = self._type(handle, identifier)
        bitfields = type_.info >> 31
        for i in range(type_.info & 0xFFFF):
            member = _Member.from_address(address + 12 + 12 * i)
            offset = member.offset & 0xFFFFFF if bitfields else member.offset
            yield self._name(handle, member.name_off), member.type, offset

    def _strip(self, handle: int, identifier: int) -> int:
        """Return the id of a type behind typedefs and qualifiers."""
        while True:
            type_, _ = self._type(handle, identifier)
            if (type_.info >> 24) & 31 not in _MODIFIERS:
                return identifier
            identifier = type_.size

    def _member_bits(self, handle: int, identifier: int, name: str) -> int | None:
        for member, type_id, offset in self._members(handle, identifier):
            if member == name:
                return offset
            if not member:  # anonymous struct or union: its members are ours
                inner = self._member_bits(handle, self._strip(handle, type_id), name)
                if inner is not None:
                    return offset + inner
        return None

    def _struct(self, name: str) -> tuple[int, int] | None:
        return self._find(name, _KIND_STRUCT) or self._find(name, _KIND_UNION)

    def offset(self, struct_name: str, member: str) -> int | None:
        """Return a member's offset in bytes, None if struct or member is not there."""
        found = self._struct(struct_name)
        if found is None:
            return None
        bits = self._member_bits(*found, member)
        return None if bits is None else bits // 8

    def size(self, struct_name: str) -> int | None:
        """Return a struct's size in bytes, None if it is not there."""
        found = self._struct(struct_name)
        if found is None:
            return None
        return int(self._type(*found)[0].size)

    def function_id(self, module: str, name: str) -> int | None:
        """Return the BTF id of a function as attach_btf_id wants it."""
        return self._identifier(module, name, _KIND_FUNC)

    def tracepoint_id(self, module: str, name: str) -> int | None:
        """Return the BTF id of a tracepoint as attach_btf_id wants it."""
        return self._identifier(module, f"btf_trace_{name}", _KIND_TYPEDEF)

    def _identifier(self, module: str, name: str, kind: int) -> int | None:
        handle = self._handles.get(module)
        if handle is None:
            return None
        key = module, name, kind
        if key not in self._identifiers:
            found = self._library.btf__find_by_name_kind(handle, name.encode(), kind)
            self._identifiers[key] = int(found) if found > 0 else None
        return self._identifiers[key]

    def has_tracepoint(self, name: str) -> bool:
        """Return whether a tracepoint is there: its callback's type is btf_trace_<name>."""
        return self._find(f"btf_trace_{name}", _KIND_TYPEDEF) is not None

    def arguments(self, module: str, name: str) -> tuple[str, ...] | None:
        """Return for each argument the struct it points to, "" for anything else."""
        identifier = self.function_id(module, name)
        if identifier is None:
            return None
        handle = self._handles[module]
        function, _ = self._type(handle, identifier)
        return self._parameters(handle, function.size)

    def tracepoint_arguments(self, module: str, name: str) -> tuple[str, ...] | None:
        """Return the same of a tracepoint, None if it is not there."""
        identifier = self.tracepoint_id(module, name)
        if identifier is None:
            return None
        handle = self._handles[module]
        pointer, _ = self._type(handle, self._strip(handle, identifier))
        # Before what the tracepoint passes comes what the callback was registered with.
        return self._parameters(handle, pointer.size)[1:]

    def _parameters(self, handle: int, prototype: int) -> tuple[str, ...]:
        type_, address = self._type(handle, prototype)
        parameters = [_Param.from_address(address + 12 + 8 * i) for i in range(type_.info & 0xFFFF)]
        return tuple(self._pointee(handle, parameter.type) for parameter in parameters)

    def _pointee(self, handle: int, identifier: int) -> str:
        type_, _ = self._type(handle, self._strip(handle, identifier))
        if (type_.info >> 24) & 31 != _KIND_PTR or not type_.size:
            return ""
        target, _ = self._type(handle, self._strip(handle, type_.size))
        if (target.info >> 24) & 31 != _KIND_STRUCT:
            return ""
        return self._name(handle, target.name_off)
