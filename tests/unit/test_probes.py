"""The plan: which probes of the table this kernel can have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pytest

from tracer import probes
from tracer.kernel import functions, offsets, standins

TRACEPOINTS = frozenset(
    probe.target for probe in probes.TABLE if probe.kind in ("raw_tp", "tp_btf")
)
FUNCTIONS: Mapping[tuple[str, str], tuple[str, ...]] = {
    **{(p.module, p.target): ("",) for p in probes.TABLE if p.kind in ("fentry", "fexit", "iter")},
    **{
        (call.module, function): ("inode", "file")
        for call in functions.wanted(("server", "client"))
        for function in call.functions
    },
}
TYPES = frozenset(each.name for each in offsets.OPTIONAL)
READ = frozenset(probe.reads for probe in probes.TABLE if probe.reads)
MODULES = frozenset({"vmlinux", "sunrpc", "nfsd", "nfs", "nfsv4"})


class Kernel(NamedTuple):
    """A kernel that has everything but what a test takes away."""

    tracepoints: frozenset[str] = TRACEPOINTS
    functions: Mapping[tuple[str, str], tuple[str, ...]] = FUNCTIONS
    modules: frozenset[str] = MODULES

    def arguments(self, module: str, name: str) -> Sequence[str] | None:
        return self.functions.get((module, name)) if module in self.modules else None

    def plan(self, *sides: str, types: frozenset[str] = TYPES | READ) -> probes.Plan:
        return probes.plan(
            sides,
            self.tracepoints.__contains__,
            self.arguments,
            self.modules,
            types.__contains__,
        )


def targets(found: Iterable[probes.Probe]) -> set[str]:
    return {probe.target for probe in found}


def missing(plan: probes.Plan) -> dict[str, probes.Missing]:
    return {each.probe.program: each for each in plan.missing}


@pytest.mark.parametrize("sides", [("server",), ("client",), ("server", "client")])
def test_a_kernel_that_has_all_lacks_nothing(sides: tuple[str, ...]) -> None:
    plan = Kernel().plan(*sides)
    assert not plan.missing
    assert {probe.side for probe in plan.probes} == {"both", *sides}
    programs = [probe.program for probe in plan.probes]
    assert len(programs) == len(set(programs))


def test_every_probe_says_what_for_and_what_is_lost() -> None:
    for probe in Kernel().plan("server", "client").probes:
        assert probe.purpose
        assert probe.lost
    required = {p.target for p in probes.TABLE if p.required}
    assert {"sched_switch", "sched_waking", "svc_process", "svc_send", "rpc_task_end"} <= required


def test_a_missing_tracepoint_is_named_and_the_rest_stays() -> None:
    kernel = Kernel(tracepoints=TRACEPOINTS - {"svc_stats_latency", "svc_send"})
    plan = kernel.plan("server")
    found = missing(plan)
    assert set(found) == {"on_svc_stats_latency", "on_svc_send"}
    assert not found["on_svc_stats_latency"].probe.required
    assert found["on_svc_send"].probe.required
    assert found["on_svc_send"].reason == "this kernel has no such tracepoint"
    assert "svc_process" in targets(plan.probes)


def test_an_older_name_is_taken_only_where_the_new_one_is_not() -> None:
    new, old = ("vmlinux", "fsnotify_insert_event"), ("vmlinux", "fsnotify_add_event")
    both = {**FUNCTIONS, old: ("",)}
    without_new = {key: value for key, value in both.items() if key != new}
    neither = {key: value for key, value in without_new.items() if key != old}
    assert "fsnotify_insert_event" in targets(Kernel(functions=both).plan("server").probes)
    plan = Kernel(functions=without_new).plan("server")
    (probe,) = (p for p in plan.probes if p.program == "fsnotify_insert_event_enter")
    assert probe.target == "fsnotify_add_event"
    lacking = missing(Kernel(functions=neither).plan("server"))["fsnotify_insert_event_enter"]
    assert (lacking.probe.target, lacking.reason) == (
        "fsnotify_insert_event",
        "this kernel has no such function",
    )


def test_an_older_tracepoint_is_taken_only_where_the_new_one_is_not() -> None:
    new, old = "writeback_dirty_folio", "writeback_dirty_page"
    assert new in targets(Kernel(tracepoints=TRACEPOINTS | {old}).plan("server").probes)
    plan = Kernel(tracepoints=TRACEPOINTS - {new} | {old}).plan("server")
    (probe,) = (p for p in plan.probes if p.program == f"on_{new}")
    assert probe.target == old
    lacking = missing(Kernel(tracepoints=TRACEPOINTS - {new}).plan("server"))[f"on_{new}"]
    assert (lacking.probe.target, lacking.reason) == (new, "this kernel has no such tracepoint")


def test_a_module_without_types_is_said_so() -> None:
    plan = Kernel(modules=MODULES - {"nfsv4"}).plan("client")
    found = missing(plan)
    assert {each.probe.module for each in found.values()} == {"nfsv4"}
    assert all("no BTF for module nfsv4" in each.reason for each in found.values())
    assert "nfs4_file_open_enter" in found
    assert "nfs_file_open" in targets(plan.probes)


def test_without_sunrpc_the_server_cannot_be_traced() -> None:
    plan = Kernel(TRACEPOINTS - {"svc_process", "svc_send"}).plan("server")
    assert {"on_svc_process", "on_svc_send"} <= {
        each.probe.program for each in plan.missing if each.probe.required
    }


def test_modules_without_types_still_have_trace_events_and_callers() -> None:
    calls = [(call, function) for call in standins.STAND_INS for function in call.functions]
    callers = {(c.module, name): ("file",) for c, name in calls if not c.event}
    events = {f"{name}_{end}" for c, name in calls if c.event for end in ("enter", "exit")}
    kernel = Kernel(TRACEPOINTS | events, {**FUNCTIONS, **callers}, frozenset({"vmlinux"}))
    plan = kernel.plan("server", "client", types=frozenset())
    assert {"svc_process", "rpc_task_begin", "vfs_read", "nfs_fsync_exit"} <= targets(plan.probes)
    typed = {probe.target for probe in plan.probes if probe.kind == "tp_btf"}
    assert typed == {"sched_switch", "sched_waking"}
    without = {"fh_verify", "fh_put", "xfs_log_ticket_ungrant", "xfs_log_ticket_regrant"}
    assert targets(each.probe for each in plan.missing) == without | TYPES
    assert {each.probe.required for each in plan.missing} == {False}
    templates = {probe.program: probe.template for probe in plan.probes if probe.filling}
    assert templates["vfs_read_enter"] == "vfs_enter_any"
    assert templates["vfs_read_exit"] == "vfs_exit_any"
    assert templates["nfs_lookup_enter"] == "vfs_enter_nfs"
    assert templates["nfs_lookup_exit"] == "vfs_exit_nfs"


def test_the_program_that_is_run_needs_nothing_of_the_kernel() -> None:
    empty = Kernel(frozenset(), {}, frozenset())
    assert [probe.kind for probe in empty.plan("server", "client").probes] == ["run"]


def test_all_calls_of_a_kind_share_the_templates_of_entry_and_exit() -> None:
    kernel = Kernel(
        functions={
            **FUNCTIONS,
            ("nfs", "nfs_file_read"): ("kiocb", "iov_iter"),
            ("nfs", "nfs_getattr"): ("user_namespace", "path", "kstat", "", ""),
        }
    )
    by_program = {probe.program: probe for probe in kernel.plan("client").probes}
    assert by_program["nfs_file_read_enter"].template == "vfs_enter_nfs"
    assert by_program["nfs_file_read_exit"].template == "vfs_exit_nfs"
    assert by_program["nfs_getattr_enter"].template == "vfs_enter_nfs"
    assert by_program["nfs_file_open_enter"].template == by_program["nfs_lookup_enter"].template
    for one in functions.traced(functions.CLIENT, ["client"], kernel.arguments)[0]:
        assert by_program[f"{one.function}_enter"].filling == one.filling


def test_a_call_is_missing_only_without_any_of_its_functions() -> None:
    reads = ("vfs_iter_read", "vfs_iocb_iter_read")
    kernel = Kernel(functions={k: v for k, v in FUNCTIONS.items() if k[1] != reads[0]})
    plan = kernel.plan("server")
    assert not plan.missing
    assert reads[1] in targets(plan.probes)
    kernel = Kernel(functions={k: v for k, v in FUNCTIONS.items() if k[1] not in reads})
    (lacking,) = kernel.plan("server").missing
    assert (lacking.probe.target, lacking.probe.lost) == (reads[0], "read calls by nfsd")


def test_a_hook_that_a_kernel_does_not_have_is_not_missing() -> None:
    hook = ("vmlinux", "security_file_post_open")
    plan = Kernel(functions={k: v for k, v in FUNCTIONS.items() if k != hook}).plan("server")
    assert not plan.missing
    assert hook[1] not in targets(plan.probes)


def test_a_filesystem_that_is_not_there_is_not_missed() -> None:
    without = TRACEPOINTS - {
        "jbd2_handle_stats",
        "xfs_log_ticket_ungrant",
        "xfs_log_ticket_regrant",
    }
    plan = Kernel(tracepoints=without).plan("server")
    assert not plan.missing
    assert not {"jbd2_handle_stats", "xfs_log_ticket_ungrant"} & targets(plan.probes)


def test_one_that_is_there_is_missed_if_it_cannot_be_traced() -> None:
    programs = {"on_xfs_log_ticket_ungrant", "on_xfs_log_ticket_regrant"}
    untyped = missing(Kernel().plan("server", types=TYPES))
    assert set(untyped) == programs
    assert "no type information" in untyped["on_xfs_log_ticket_ungrant"].reason
    without = TRACEPOINTS - {"xfs_log_ticket_ungrant", "xfs_log_ticket_regrant"}
    renamed = Kernel(tracepoints=without, modules=MODULES | {"xfs"}).plan("server")
    assert set(missing(renamed)) == programs
