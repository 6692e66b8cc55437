"""Compiled programs apart from the process that compiled them.

An ``Object`` holds maps by their sizes and programs by their instructions, in
which references to maps are kept by name. It can be stored and loaded again
without bcc, which in an incident saves reading LLVM from a disk that may hang.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tracer.kernel import bpf

_INSTRUCTION_BYTES: Final = 8
# BPF_LD | BPF_DW | BPF_IMM with src_reg = BPF_PSEUDO_MAP_FD: loads a map by its fd.
_LOAD_IMM64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as BPF_MAP_CREATE wants it; ``inner`` names the template of a map of maps."""

    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int
    inner: str | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """Instructions, and ``(index of an instruction, name of the map it loads)``."""

    code: bytes
    maps: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Object:
    """All maps and programs of one compilation."""

    maps: Mapping[str, MapSpec]
    programs: Mapping[str, Program]

    def to_json(self) -> str:
        """Return the object as text."""
        return json.dumps(
            {
                "maps": {name: [*_numbers(spec), spec.inner] for name, spec in self.maps.items()},
                "programs": {
                    name: [base64.b64encode(p.code).decode(), p.maps]
                    for name, p in self.programs.items()
                },
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Object:
        """Return the object of ``to_json``. Raises ValueError if it is anything else."""
        try:
            data = json.loads(text)
            found = cls(
                maps={name: MapSpec(*fields) for name, fields in data["maps"].items()},
                programs={
                    name: Program(
                        base64.b64decode(code, validate=True), tuple((i, m) for i, m in maps)
                    )
                    for name, (code, maps) in data["programs"].items()
                },
            )
            found.check()
        except (LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
            raise ValueError(f"no compiled object: {error}") from error
        return found

    def check(self) -> None:
        """Raise ValueError or TypeError unless all fits together."""
        for spec in self.maps.values():
            struct.pack("<5I", *_numbers(spec))
            if spec.inner is not None and self.maps[spec.inner].inner is not None:
                raise ValueError("a template of a map of maps is one itself")
        for program in self.programs.values():
            count, rest = divmod(len(program.code), _INSTRUCTION_BYTES)
            if rest or not count:
                raise ValueError("a program of half an instruction, or of none")
            for index, name in program.maps:
                if index not in range(count) or name not in self.maps:
                    raise ValueError(f"no instruction {index} or no map {name}")


def _numbers(spec: MapSpec) -> tuple[int, int, int, int, int]:
    return spec.type, spec.key_bytes, spec.value_bytes, spec.max_entries, spec.flags


def detach(code: bytes, map_names: Mapping[int, str]) -> Program:
    """Return instructions with their map fds taken out; ``map_names`` says whose fd is whose."""
    parts = bytearray(code)
    references = []
    for at in range(0, len(code), _INSTRUCTION_BYTES):
        opcode, registers = code[at], code[at + 1]
        if opcode == _LOAD_IMM64 and registers >> 4 == _PSEUDO_MAP_FD:
            (fd,) = struct.unpack_from("<i", code, at + 4)
            references.append((at // _INSTRUCTION_BYTES, map_names[fd]))
            struct.pack_into("<i", parts, at + 4, 0)
    return Program(bytes(parts), tuple(references))


def attach(program: Program, map_fds: Mapping[str, int]) -> bytes:
    """Return the program's instructions with these maps' fds put in."""
    code = bytearray(program.code)
    for index, name in program.maps:
        struct.pack_into("<i", code, index * _INSTRUCTION_BYTES + 4, map_fds[name])
    return bytes(code)


def create_maps(specs: Mapping[str, MapSpec]) -> dict[str, int]:
    """Create the maps and return {name: fd}; maps of maps come after their templates."""
    fds: dict[str, int] = {}
    for name, spec in sorted(specs.items(), key=lambda item: item[1].inner is not None):
        fds[name] = bpf.create_map(
            name,
            spec.type,
            spec.key_bytes,
            spec.value_bytes,
            spec.max_entries,
            spec.flags,
            fds[spec.inner] if spec.inner else 0,
        )
    return fds
