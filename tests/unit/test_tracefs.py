"""Trace events, from a tracefs laid out by hand."""

from __future__ import annotations

from pathlib import Path

from tracer.kernel.tracefs import has_event


def test_an_event_of_a_module_that_is_traced_is_found_in_either_place(tmp_path: Path) -> None:
    own, debug = tmp_path / "tracing", tmp_path / "debug/tracing"
    (debug / "events/sunrpc/svc_process").mkdir(parents=True)
    (own / "events/xfs/xfs_log_ticket_ungrant").mkdir(parents=True)
    (own / "events/block/svc_send").mkdir(parents=True)
    assert has_event("svc_process", (own, debug))
    assert has_event("xfs_log_ticket_ungrant", (own, debug))
    assert not has_event("svc_send", (own, debug))
    assert not has_event("svc_process", (own,))
    assert not has_event("svc_process", ())
