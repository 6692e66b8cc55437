"""The compiler child: BTF in, programs compiled by bcc, file descriptors out; then it exits.

So LLVM's 100 MB end with it and the collector stays small. What was compiled is kept,
and the next start on the same kernel needs no bcc. Started as
``python -m tracer.compiler FD`` with a Unix socket; reads one JSON request
(``Request``), answers with one JSON line (``Reply`` or ``{"error", "exit"}``)
and the fds of maps and programs in the order in which the reply names them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tracer import bcc_module, calls, probes
from tracer.children import FDS_PER_MESSAGE
from tracer.errors import Exit, NfsblameError
from tracer.host import possible_processors
from tracer.kernel import bpf, cache, functions, objects, offsets, standins, templates, tracefs
from tracer.kernel.btf import Btf
from tracer.kernel.objects import MapSpec, Object
from tracer.records import MAP_SIZES, SIDE_CLIENT, SIDE_SERVER

MODULES: Final = ("sunrpc", "nfsd", "nfs", "nfsv4", "nfnetlink_queue", "xfs")
# Numbers of calls that the BPF source names.
_CALLS: Final = {
    "VFS_PERMISSION": calls.vfs_number("permission"),
    "VFS_WORK": calls.vfs_number("work"),
    "VFS_PACKET": calls.vfs_number("packet"),
    "VFS_ANSWER": calls.vfs_number("answer"),
    "VFS_WOKEN": calls.vfs_number("woken"),
    "RPC_NULL": calls.RPC_NULL,
    "HOOKS_FROM": calls.HOOKS_FROM,
    "HOOKS_TO": calls.HOOKS_FROM + len(calls.HOOKS),
}


# Without what clang does for nothing: bcc's own passes optimise what they get, so clang's before
# them are a second helping; debug information would end with the child, and every pass drags it.
_CLANG: Final = ("-g0", "-Xclang", "-disable-llvm-passes", "-Wno-macro-redefined")

_ATTACH_TYPES: Final = {
    "tp_btf": bpf.TRACE_RAW_TP,
    "fentry": bpf.TRACE_FENTRY,
    "fexit": bpf.TRACE_FEXIT,
    "iter": bpf.TRACE_ITER,
}


def bpf_folder() -> Path:
    """Return the folder of the BPF sources: inside the package, or of the checkout."""
    packaged = Path(__file__).parent / "bpf"
    return packaged if packaged.is_dir() else packaged.parent.parent / "bpf"


def translation_unit(folder: Path, name: str, seen: set[str] | None = None) -> str:
    """Return a source file with its own ``#include "..."`` lines replaced by the files.

    bcc rewrites map accesses only in the main file, so there must be only one.
    """
    seen = set() if seen is None else seen
    text = (folder / name).read_text()

    def included(match: re.Match[str]) -> str:
        if match[1] in seen:
            return ""
        seen.add(match[1])
        return translation_unit(folder, match[1], seen)

    return re.sub(r'^#include "([\w.]+)"$', included, text, flags=re.MULTILINE)


def _definitions(btf: Btf, sides: list[str]) -> tuple[list[str], dict[str, int]]:
    found, lacking = offsets.resolve(offsets.fields(sides), btf.offset)
    missing = [macro for macro in lacking if not offsets.is_dispensable(macro)]
    if missing:
        raise NfsblameError(
            "the kernel's type information lacks "
            + ", ".join(name.removeprefix("OFF_").replace("__", ".") for name in missing)
            + ". Are the nfsd and nfs modules loaded, with module BTF (/sys/kernel/btf/sunrpc)?",
            Exit.KERNEL,
        )
    seed, _ = offsets.resolve(offsets.seed_fields(sides), btf.offset)
    for name in offsets.SIZES:
        size = btf.size(name)
        if size is not None:
            found[f"SIZE_{name}"] = size
    values = {**MAP_SIZES, **found, **_CALLS, **templates.KINDS, "MAX_CPUS": possible_processors()}
    # Of what belongs to neither side.
    values["HOST_SIDE"] = SIDE_SERVER if "server" in sides else SIDE_CLIENT
    flags = [f"-D{name}={value}" for name, value in values.items()]
    # The queue came before the bio until e8a676d61c07 and eb6f7f7cd3af (v5.11).
    for event in ("block_bio_queue", "block_split"):
        arguments = btf.tracepoint_arguments("vmlinux", event) or ("bio",)
        flags.append(f"-DARG_{event}={arguments.index('bio')}")
    if probes.TYPED_MODULE in btf.modules:
        flags.append("-DTYPED")
    if btf.function_id("vmlinux", "bpf_task_pt_regs") is not None:
        flags.append("-DTASK_PT_REGS")
    return flags, {**found, **seed}


def _source(btf: Btf, sides: list[str]) -> str:
    """Return the translation unit, with a template for each kind of traced function."""
    files = ("nfsblame.c", *(f"{side}.h" for side in sides))
    unit = "\n".join(translation_unit(bpf_folder(), name) for name in files)
    wanted = functions.wanted(sides, standins.client_calls(btf.modules))
    found, _ = functions.traced(wanted, sides, btf.arguments)
    sources = dict.fromkeys(template.source for one in found for template in one.pair)
    return "\n".join([unit, *sources])


def _compile(source: str, flags: list[str], programs: set[str]) -> Object:
    """Compile with bcc and return the maps and the named programs."""
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_folder() / "shim")
    bcc = bcc_module.load()
    try:
        module = bcc.BPF(text=source.encode(), cflags=[*flags, *_CLANG])
    except Exception as error:
        raise NfsblameError(
            f"bcc could not compile the BPF programs: {error}. Its messages stand above.",
            Exit.KERNEL,
        ) from error
    fds = {name: module[name.encode()].map_fd for name in _map_names(source)}
    names = {fd: name for name, fd in fds.items()}
    return Object(
        maps={
            name: MapSpec(*bpf.map_info(fd), f"{name}0" if f"{name}0" in fds else None)
            for name, fd in fds.items()
        },
        programs={
            name: objects.detach(module.dump_func(name.encode()), names)
            for name in sorted(programs)
        },
    )


def _map_names(source: str) -> list[str]:
    """Return the names of the maps that a translation unit declares."""
    declared = re.findall(r"^BPF_([A-Z_]+)\(([^;]*)\);", source, flags=re.MULTILINE)
    return [re.split(r"[(,]", arguments)[0].strip() for _, arguments in declared]


def _object(source: str, flags: list[str], plan: probes.Plan) -> Object:
    """Return the compiled programs: kept from an earlier start, or compiled now."""
    programs = {probe.template or probe.program for probe in plan.probes}
    name = cache.key(source, [*flags, *_CLANG, *sorted(programs)])
    kept = cache.load(name)
    if kept is None:
        kept = _compile(source, flags, programs)
        try:
            cache.store(name, kept)
        except OSError as error:
            print(
                f"nfsblame: cannot keep the compiled programs in {cache.FOLDER} "
                f"({error.strerror}); the next start compiles them again",
                file=sys.stderr,
            )
    return kept


def _load(
    compiled: Object,
    probe: probes.Probe,
    maps: dict[str, int],
    btf: Btf,
    btf_fds: Mapping[str, int],
) -> int:
    code = objects.attach(compiled.programs[probe.template or probe.program], maps)
    if probe.filling is not None:
        code = templates.specialise(code, probe.filling)
    if probe.kind in ("raw_tp", "run"):
        return bpf.load_program(code, bpf.PROG_TYPE_RAW_TRACEPOINT, probe.program)
    if probe.kind == "tp_btf":
        identifier = btf.tracepoint_id(probe.module, probe.target)
    else:
        identifier = btf.function_id(probe.module, probe.target)
    assert identifier is not None  # the plan has asked BTF for it
    return bpf.load_program(
        code,
        bpf.PROG_TYPE_TRACING,
        probe.program,
        _ATTACH_TYPES[probe.kind],
        identifier,
        btf_fds.get(probe.module, 0),
    )


def _load_all(
    compiled: Object, planned: Sequence[probes.Probe], maps: dict[str, int], btf: Btf
) -> list[int | OSError]:
    """Return for each probe its program's fd, or why the kernel refuses it.

    Nearly all the time goes to the kernel's verifier, which takes a program on each CPU.
    """
    modules = {probe.module for probe in planned if probe.kind not in ("raw_tp", "run")}
    btf_fds = {module: bpf.module_btf_fd(module) for module in modules - {"vmlinux"}}

    def load(probe: probes.Probe) -> int | OSError:
        try:
            return _load(compiled, probe, maps, btf, btf_fds)
        except OSError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(load, planned))


def kernel_types() -> Btf:
    """Return this kernel's types, or raise NfsblameError that says what is missing."""
    try:
        return Btf(MODULES)
    except OSError as error:
        raise NfsblameError(
            f"{error}. nfsblame needs a kernel with CONFIG_DEBUG_INFO_BTF=y "
            "(distribution kernels have it since 5.10) and libbpf.",
            Exit.KERNEL,
        ) from error


def planned(btf: Btf, sides: list[str]) -> probes.Plan:
    """Return what would be attached on this host."""

    def has_tracepoint(name: str) -> bool:
        return btf.has_tracepoint(name) or tracefs.has_event(name)

    def has_type(name: str) -> bool:
        return btf.size(name) is not None

    return probes.plan(sides, has_tracepoint, btf.arguments, btf.modules, has_type)


def _prepare(btf: Btf, sides: list[str]) -> tuple[Object, probes.Plan, dict[str, int]]:
    """Return the compiled programs, what to attach, and the layout of the kernel."""
    flags, layout = _definitions(btf, sides)
    plan = planned(btf, sides)
    return _object(_source(btf, sides), flags, plan), plan, layout


def compile_and_load(sides: list[str]) -> tuple[dict[str, Any], list[int]]:
    """Return the reply and the fds it names, maps first.

    Raises NfsblameError (exit 4) that says what this host lacks.
    """
    btf = kernel_types()
    compiled, plan, layout = _prepare(btf, sides)
    # Maps counted as locked memory before memcg did it (97306be45fbe, v5.11).
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    try:
        maps = objects.create_maps(compiled.maps)
    except OSError as error:
        raise NfsblameError(
            f"the kernel refuses BPF maps ({error.strerror}). In a container, give it CAP_BPF, "
            "CAP_PERFMON and CAP_SYS_RESOURCE, or run nfsblame on the host",
            Exit.PRIVILEGE if error.errno == errno.EPERM else Exit.KERNEL,
        ) from error
    loaded: list[tuple[probes.Probe, int]] = []
    missing = [(m.probe, m.reason) for m in plan.missing]
    for probe, result in zip(plan.probes, _load_all(compiled, plan.probes, maps, btf), strict=True):
        if isinstance(result, OSError):
            missing.append((probe, str(result)))
        else:
            loaded.append((probe, result))
    reply = {
        "maps": list(maps),
        "programs": [_described(probe) for probe, _ in loaded],
        "missing": [{**_described(probe), "reason": reason} for probe, reason in missing],
        "layout": layout,
    }
    return reply, [*maps.values(), *(fd for _, fd in loaded)]


def _described(probe: probes.Probe) -> dict[str, Any]:
    return {
        "program": probe.program,
        "kind": probe.kind,
        "target": probe.target,
        "module": probe.module,
        "purpose": probe.purpose,
        "lost": probe.lost,
        "required": probe.required,
        "on_demand": probe.on_demand,
    }


def main() -> None:
    """Answer the one request on the socket whose fd is the argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    request = json.loads(channel.makefile("r").readline())
    fds: list[int] = []
    try:
        reply, fds = compile_and_load(request["sides"])
    except NfsblameError as error:
        reply = {"error": str(error), "exit": int(error.exit_code)}
    with suppress(BrokenPipeError):  # whoever asked is gone
        channel.sendall(json.dumps(reply).encode() + b"\n")
        for i in range(0, len(fds), FDS_PER_MESSAGE):
            socket.send_fds(channel, [b"F"], fds[i : i + FDS_PER_MESSAGE])


if __name__ == "__main__":
    main()
