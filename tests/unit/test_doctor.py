"""Findings about a host, from facts alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from tracer import compiler, host, probes
from tracer.commands import doctor as doctor_command
from tracer.doctor import Finding, examine_host, examine_plan
from tracer.errors import Exit, NfsblameError
from tracer.host import KernelSupport

GOOD = KernelSupport(
    root=True,
    btf=True,
    module_btf=frozenset({"sunrpc", "nfsd", "nfs"}),
    lockdown="none",
    modules=frozenset({"sunrpc", "nfsd", "nfs"}),
    nfsd_threads=8,
    nfs_mounts=1,
)


def by_what(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_host_where_all_is_well() -> None:
    findings = examine_host(GOOD, "0.26.0", None)
    assert {finding.state for finding in findings} == {"ok"}
    assert (
        by_what(findings)["nfs"].detail
        == "active here: server and client; its modules cannot be unloaded while recording"
    )
    assert by_what(findings)["bcc"].detail == "bcc 0.26.0"


@pytest.mark.parametrize(
    ("changes", "what", "mend"),
    [
        ({"root": False}, "root", "sudo"),
        ({"btf": False}, "btf", "CONFIG_DEBUG_INFO_BTF"),
        ({"lockdown": "confidentiality"}, "lockdown", "integrity"),
        ({"nfsd_threads": None, "nfs_mounts": 0}, "nfs", "mount a share"),
    ],
)
def test_each_lack_is_one_finding_with_its_mend(
    changes: dict[str, Any], what: str, mend: str
) -> None:
    findings = examine_host(replace(GOOD, **changes), "0.26.0", None)
    (bad,) = (finding for finding in findings if finding.state != "ok")
    assert (bad.what, bad.state) == (what, "fatal")
    assert mend in (bad.mend or "")


@pytest.mark.parametrize(("module", "side"), [("nfsd", "server"), ("nfs", "client")])
def test_modules_without_types_are_no_obstacle(module: str, side: str) -> None:
    support = replace(GOOD, module_btf=GOOD.module_btf - {module})
    finding = by_what(examine_host(support, "0.26.0", None))[f"{side} types"]
    assert finding.state == "missing"
    assert "CONFIG_DEBUG_INFO_BTF_MODULES" in (finding.mend or "")


def test_bcc_that_is_not_usable_brings_its_own_mend() -> None:
    finding = by_what(examine_host(GOOD, None, "apt install python3-bpfcc"))["bcc"]
    assert (finding.state, finding.mend) == ("fatal", "apt install python3-bpfcc")


def test_a_plan_says_what_is_lost_and_how_to_get_it() -> None:
    optional, required = (
        next(p for p in probes.TABLE if p.module == "nfsd" and not p.required),
        next(p for p in probes.TABLE if p.target == "sched_switch"),
    )
    fine = next(p for p in probes.TABLE if p.target == "svc_process")
    plan = probes.Plan(
        (fine,), (probes.Missing(optional, "reason one"), probes.Missing(required, "reason two"))
    )
    good, missing, fatal = examine_plan(plan)
    assert (good.state, good.what) == ("ok", "tp_btf svc_process")
    assert (missing.state, missing.mend) == ("missing", "modprobe nfsd")
    assert missing.detail == f"reason one; lost: {optional.lost}"
    assert (fatal.state, fatal.mend) == ("fatal", None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command on a host of these facts."""

    def run(support: KernelSupport, *arguments: str, bcc: Any = ("0.26.0", None)) -> Any:
        monkeypatch.setattr(host, "kernel_support", lambda: support)
        monkeypatch.setattr(doctor_command, "_bcc", lambda: bcc)
        monkeypatch.setattr(compiler, "kernel_types", lambda: None)
        monkeypatch.setattr(compiler, "planned", lambda *_: probes.Plan((), ()))
        return CliRunner().invoke(doctor_command.command, arguments)

    return run


@pytest.mark.parametrize(
    ("changes", "bcc", "code"),
    [
        ({}, ("0.26.0", None), Exit.DONE),
        ({"root": False}, ("0.26.0", None), Exit.PRIVILEGE),
        ({"btf": False}, ("0.26.0", None), Exit.KERNEL),
        ({"root": False, "btf": False}, ("0.26.0", None), Exit.KERNEL),
        ({}, (None, "install it"), Exit.KERNEL),
    ],
)
def test_exit_codes(run: Any, changes: dict[str, Any], bcc: Any, code: Exit) -> None:
    assert run(replace(GOOD, **changes), bcc=bcc).exit_code == code


def test_json_has_what_the_text_has(run: Any) -> None:
    bad = replace(GOOD, lockdown="confidentiality")
    document = json.loads(run(bad, "--format", "json").stdout)
    text = run(bad).stdout
    assert document["sides"] == ["server", "client"]
    for finding in document["findings"]:
        assert set(finding) == {"what", "state", "detail", "mend"}
        assert f"{finding['what']}: {finding['detail']}" in text
        assert finding["mend"] is None or finding["mend"] in text


def test_types_that_cannot_be_read_are_a_finding(run: Any, monkeypatch: Any) -> None:
    def fail() -> None:
        raise NfsblameError("libbpf not found", Exit.KERNEL)

    result = run(GOOD)
    assert result.exit_code == 0
    monkeypatch.setattr(compiler, "kernel_types", fail)
    result = CliRunner().invoke(doctor_command.command, [])
    assert result.exit_code == Exit.KERNEL
    assert "libbpf not found" in result.stdout
