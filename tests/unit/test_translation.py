"""From ``bpf/`` to the one source file that bcc compiles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracer import compiler, probes, records
from tracer.kernel import functions, offsets

FOLDER = compiler.bpf_folder()


@pytest.fixture(scope="module")
def whole() -> str:
    return "\n".join(
        compiler.translation_unit(FOLDER, name) for name in ("nfsblame.c", "server.h", "client.h")
    )


def test_sources_are_found() -> None:
    assert (FOLDER / "nfsblame.c").is_file()
    assert (FOLDER / "shim").is_dir()


def test_no_include_of_ours_is_left_and_every_file_is_in_once(whole: str) -> None:
    assert '#include "' not in whole
    for path in FOLDER.glob("*.h"):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        (line, *_) = (
            line for line in code.splitlines() if line.strip() and not line.startswith("#")
        )
        assert whole.count(line) >= 1, path


def test_a_file_included_twice_is_in_once(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text('#include "a.h"\n#include "b.h"\nmain\n')
    (tmp_path / "a.h").write_text('#include "b.h"\nfrom a\n')
    (tmp_path / "b.h").write_text("from b\n")
    text = compiler.translation_unit(tmp_path, "main.c")
    assert text.split() == ["from", "b", "from", "a", "main"]


def test_system_includes_stay(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("#include <linux/types.h>\n")
    assert compiler.translation_unit(tmp_path, "main.c") == "#include <linux/types.h>\n"


def test_every_map_is_known_by_name_and_templates_of_maps_of_maps_are_there(whole: str) -> None:
    names = compiler._map_names(whole)
    assert len(names) == len(set(names))
    for needed in ("own", "cut", "latency", "waits", "threads", "procs", "listeners", "stacks"):
        assert needed in names
    assert {"ring", "lost", "peeked", "rpcs", "latency0", "latency1"} <= set(names)
    for template in re.findall(r'BPF_ARRAY_OF_MAPS\(\w+, "(\w+)"', whole):
        assert template in names
    # The kernel keeps 15 characters of a name.
    assert all(len(name) <= 15 for name in names)


def test_every_probe_of_the_table_has_its_program(whole: str) -> None:
    for probe in probes.TABLE:
        assert re.search(rf"^int {probe.program}\(", whole, re.MULTILINE), probe.program


def test_every_program_in_the_sources_is_in_the_table(whole: str) -> None:
    programs = set(re.findall(r"^int (\w+)\(", whole, re.MULTILINE))
    assert programs == {probe.program for probe in probes.TABLE}


def test_every_offset_used_is_looked_up_and_every_one_looked_up_is_used(whole: str) -> None:
    used = set(re.findall(r"\bOFF_\w+", whole)) - {"OFF_"}
    known = {field.macro for field in offsets.fields(["server", "client"])}
    assert used - {"OFF_"} <= known | {"OFF_struct__member"}
    # What only the look back reads may be listed with the seed's, not here.
    assert known - used == set()
    sizes = set(re.findall(r"\bSIZE_(\w+)", whole))
    assert sizes <= set(offsets.SIZES)


def test_every_size_of_a_map_is_given(whole: str) -> None:
    declared = set(re.findall(r"^BPF_\w+\(.*?\b(MAX_\w+)\)", whole, re.MULTILINE))
    # How many CPUs there are is the host's to say.
    assert declared <= {*records.MAP_SIZES, "MAX_CPUS"}


@pytest.mark.parametrize("sides", [["server"], ["client"], ["server", "client"]])
def test_templates_call_functions_that_are_there(sides: list[str]) -> None:
    files = ("nfsblame.c", *(f"{side}.h" for side in sides))
    unit = "\n".join(compiler.translation_unit(FOLDER, name) for name in files)
    for kind in ("", *functions._SOURCES):
        found, _ = functions.traced(
            functions.wanted(sides), sides, lambda *_, kind=kind: ("linux_binprm", kind)
        )
        for source in {each.source for one in found for each in one.pair}:
            head, *called = re.findall(r"(\w+)\(", source)
            assert re.search(rf"^int {head}\(", source)
            assert not re.search(rf"\b{head}\(", unit), head
            for name in set(called) - {"if"}:
                assert re.search(rf"\b{name}\(", unit), name


def test_resolve_takes_the_newest_name_a_kernel_has() -> None:
    old, new = ("task_struct", "state"), ("task_struct", "__state")
    (field,) = (f for f in offsets.COMMON if f.macro == "OFF_task_struct__state")
    for known, expected in (({old: 16, new: 24}, 24), ({old: 16}, 16)):
        found, missing = offsets.resolve((field,), lambda *key, known=known: known.get(key))
        assert (found, missing) == ({field.macro: expected}, [])
    assert offsets.resolve((field,), lambda *_: None) == ({}, [field.macro])


def test_an_offset_of_zero_is_one() -> None:
    found, missing = offsets.resolve(offsets.COMMON[:1], lambda *_: 0)
    assert (list(found.values()), missing) == ([0], [])
