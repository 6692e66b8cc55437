from __future__ import annotations

from pathlib import Path

import pytest

from tracer.procfs.symbols import KernelSymbols, SymbolTable, extents_of, tidy

KALLSYMS = b"""\
ffffffff81000000 T _stext
ffffffff81000100 t schedule
ffffffff81000200 T fsnotify.part.0
ffffffff81000200 T fsnotify_alias
ffffffff81000300 D not_text
ffffffff81000400 W weak_one
ffffffffc0a00000 t nfsd4_open.isra.0	[nfsd]
ffffffffc0a00100 t nfsd4_read	[nfsd]
"""


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0xFFFFFFFF80FFFFFF, None),
        (0xFFFFFFFF81000000, "_stext"),
        (0xFFFFFFFF810000FF, "_stext"),
        (0xFFFFFFFF81000100, "schedule"),
        (0xFFFFFFFF81000210, "fsnotify.part.0"),
        (0xFFFFFFFF81000310, "fsnotify.part.0"),
        (0xFFFFFFFF81000400, "weak_one"),
        (0xFFFFFFFFC0A00080, "nfsd4_open.isra.0"),
        (0xFFFFFFFFC0A00100, "nfsd4_read"),
        (0xFFFFFFFFE0000000, None),
    ],
)
def test_the_symbol_before_an_address(address: int, name: str | None) -> None:
    assert SymbolTable(KALLSYMS).name(address) == name


def test_lines_in_any_order() -> None:
    lines = KALLSYMS.splitlines(keepends=True)
    table = SymbolTable(b"".join(reversed(lines)))
    assert table.name(0xFFFFFFFF81000150) == "schedule"
    assert len(table) == 7


@pytest.mark.parametrize("text", [b"", b"\n", b"garbage", b"0000000000000000 T hidden\n"])
def test_no_symbols_no_names(text: bytes) -> None:
    assert SymbolTable(text).name(0xFFFFFFFF81000000) is None


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("fsnotify.isra.0", "fsnotify"),
        ("fsnotify.part.0.constprop.12", "fsnotify"),
        ("fsnotify.cold", "fsnotify"),
        ("do_work.llvm.1234567", "do_work"),
        ("__x64_sys_openat", "__x64_sys_openat"),
        ("fanotify_handle_event+0x1f2/0x6d0", "fanotify_handle_event"),
    ],
)
def test_suffixes_of_the_compiler_go(raw: str, plain: str) -> None:
    assert tidy([raw]) == (plain,)


@pytest.mark.parametrize(
    "leading",
    [
        [],
        ["bpf_prog_1a2b_switch", "bpf_trace_run4"],
        ["bpf_prog_1a2b_switch", "bpf_trace_run4", "__traceiter_sched_switch"],
        ["0xffffffffc0001234", "bpf_trace_run4", "__bpf_trace_sched_switch"],
        ["some_module_end", "bpf_trace_run4"],  # bpf_jit_kallsyms=0: the last symbol before it
        ["bpf_get_stackid_raw_tp", "bpf_prog_1a2b", "bpf_trace_run4"],
        ["bpf_prog_1a2b", "bpf_trampoline_6442", "ftrace_trampoline"],
    ],
)
def test_frames_of_the_program_that_took_the_stack_go(leading: list[str]) -> None:
    stack = ["__schedule", "schedule", "fanotify_handle_event"]
    assert tidy([*leading, *stack]) == tuple(stack)


def test_a_bpf_program_deeper_in_the_stack_stays() -> None:
    stack = ("__schedule", "schedule", "bpf_prog_77_sleepy", "bpf_trampoline_1", "do_dentry_open")
    assert tidy(stack) == stack


def test_kallsyms_is_read_again_only_when_modules_were_loaded(tmp_path: Path) -> None:
    def write(modules: str, kallsyms: bytes) -> None:
        (tmp_path / "modules").write_text(modules)
        (tmp_path / "kallsyms").write_bytes(kallsyms)

    symbols = KernelSymbols(tmp_path)
    nfsd = "nfsd 815104 13 - Live 0xffffffffc0a00000\n"
    write(nfsd, KALLSYMS)
    symbols.refresh()
    late = 0xFFFFFFFFC0B00010
    assert symbols.frames([0xFFFFFFFF81000150, late], asleep=False) == ("schedule", "nfsd4_read")

    write(nfsd, KALLSYMS + b"ffffffffc0b00000 t late_open\t[late]\n")
    symbols.refresh()
    assert symbols.frames([late], asleep=False) == ("nfsd4_read",)

    write(nfsd + "late 4096 0 - Live 0xffffffffc0b00000\n", (tmp_path / "kallsyms").read_bytes())
    symbols.refresh()
    assert symbols.frames([late], asleep=False) == ("late_open",)


def test_functions_of_out_of_tree_modules_say_so(tmp_path: Path) -> None:
    late = b"ffffffffc0b00000 t late_open.isra.0\t[late]\n"
    (tmp_path / "kallsyms").write_bytes(KALLSYMS + late)
    (tmp_path / "modules").write_text(
        "nfsd 815104 13 - Live 0xffffffffc0a00000\nlate 4096 0 - Live 0xffffffffc0b00000 (OE)\n"
    )
    symbols = KernelSymbols(tmp_path)
    symbols.refresh()
    inside, behind, other = 0xFFFFFFFFC0B00010, 0xFFFFFFFFC0B01010, 0xFFFFFFFFC0A00110
    assert symbols.frames([inside, other], asleep=True) == ("late_open [late]", "nfsd4_read")
    # Of code that has no symbol, the last one before it may be a module's.
    assert symbols.frames([behind], asleep=True) == ("late_open",)


def test_unreadable_symbols_leave_addresses(tmp_path: Path) -> None:
    symbols = KernelSymbols(tmp_path / "none")
    symbols.refresh()
    assert symbols.frames([0xFFFFFFFF81000150], asleep=False) == ("0xffffffff81000150",)


def test_a_traced_function_stands_once():
    stack = [
        "__schedule",
        "nfs4_file_open",
        "bpf_trampoline_6442",
        "nfs4_file_open",
        "do_dentry_open",
    ]
    assert tidy(stack) == ("__schedule", "nfs4_file_open", "do_dentry_open")
    others = ["__schedule", "bpf_trampoline_7", "f"]
    assert tidy(others) == tuple(others)


def test_a_sleeper_has_no_frames_of_a_program_of_ours() -> None:
    stack = ["wait_for_completion", "nfs_file_direct_read", "bpf_trampoline_7", "nfs_file_read"]
    assert tidy(stack, asleep=True) == tuple(stack)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ffffffffc0a3d0e4 b sunrpc_net_id\t[sunrpc]\n", (0xFFFFFFFFC0A3D0E4,) * 2),
        ("f0 T _text\nf4 B sunrpc_net_id\nf4 B alias\nf8 B next\n", (0xF4, 0xF8)),
        ("f4 B sunrpc_net_id\n10 B of_a_module\t[m]\n", (0xF4, 0xF4)),
        ("ffffffffc0a3d0e4 b not_sunrpc_net_id\t[sunrpc]\n", None),
        ("ffffffffc0a3d0e4 b sunrpc_net_id_2\t[sunrpc]\n", None),
        ("0000000000000000 b sunrpc_net_id\t[sunrpc]\n", None),  # kptr_restrict
        ("", None),
    ],
)
def test_extents_of_symbols(tmp_path: Path, text: str, expected: tuple[int, int] | None) -> None:
    (tmp_path / "kallsyms").write_text(text)
    assert extents_of({"sunrpc_net_id"}, tmp_path).get("sunrpc_net_id") == expected


def test_no_kallsyms_no_symbol(tmp_path: Path) -> None:
    assert not extents_of({"sunrpc_net_id"}, tmp_path)
