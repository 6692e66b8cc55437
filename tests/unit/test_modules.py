"""Which modules are not the kernel's own, and where their code lies."""

from __future__ import annotations

import pytest

from tracer.procfs.modules import Module, out_of_tree

FILESYSTEMS = b"nodev\tproc\n\text4\nnodev\tzfs\n"
MODULES = b"""\
nfsd 815104 13 - Live 0xffffffffc0a00000
agent 16384 1 - Live 0xffffffffc0c00000 (OE)
nvidia 1000 0 - Live 0xffffffffc0d00000 (PO)
livepatch 4096 1 - Live 0xffffffffc0e00000 (K)
"""


def names(text: bytes) -> list[str]:
    return [module.name for module in out_of_tree(text, FILESYSTEMS)]


def test_those_that_the_kernel_says_so_of() -> None:
    assert out_of_tree(MODULES, FILESYSTEMS) == [
        Module("agent", 0xFFFFFFFFC0C00000, 0xFFFFFFFFC0C04000),
        Module("nvidia", 0xFFFFFFFFC0D00000, 0xFFFFFFFFC0D003E8),
    ]


def test_code_ends_where_another_module_begins() -> None:
    near = MODULES + b"late 4096 0 - Live 0xffffffffc0c01000\n"
    assert out_of_tree(near, FILESYSTEMS)[0].end == 0xFFFFFFFFC0C01000


def test_a_filesystem_and_what_it_uses_are_not_in_the_way() -> None:
    text = b"""\
zfs 4096 6 - Live 0xffffffffc0c00000 (POE)
zcommon 4096 1 zfs, Live 0xffffffffc0c10000 (POE)
spl 4096 2 zcommon,looping, Live 0xffffffffc0c20000 (OE)
looping 4096 1 looping, Live 0xffffffffc0c30000 (OE)
"""
    assert names(text) == ["looping"]


@pytest.mark.parametrize("text", [b"", b"\n", b"agent\n", b"agent 1 0 - Live\n"])
def test_what_is_no_list_names_none(text: bytes) -> None:
    assert names(text) == []
