"""What can be traced on a host, from facts alone. Pure: findings in, findings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tracer import sides
from tracer.host import KernelSupport
from tracer.probes import Plan


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``ok``, ``missing`` (something is lost) or ``fatal``."""

    what: str
    state: Literal["ok", "missing", "fatal"]
    detail: str
    mend: str | None = None


def examine_host(support: KernelSupport, bcc: str | None, bcc_problem: str | None) -> list[Finding]:
    """Return the findings about the host; ``bcc`` is its version, None if unusable."""
    findings = [
        _finding("root", support.root, "running as root", "record needs root", "run with sudo"),
        _finding(
            "btf",
            support.btf,
            "type information of the kernel is there",
            "the kernel has no BTF",
            "use a distribution kernel of 5.10 or later (CONFIG_DEBUG_INFO_BTF=y)",
        ),
        _finding(
            "lockdown",
            support.lockdown != "confidentiality",
            f"lockdown: {support.lockdown or 'not in this kernel'}",
            "lockdown=confidentiality forbids BPF to read kernel memory",
            "boot with lockdown=integrity",
        ),
        _finding("bcc", bcc is not None, f"bcc {bcc}", "bcc is not usable", bcc_problem),
    ]
    active = sides.found(support)
    findings.append(
        _finding(
            "nfs",
            bool(active),
            f"active here: {' and '.join(active)}; its modules cannot be unloaded while recording",
            "no nfsd threads and no NFS mount",
            "start the NFS server or mount a share; record says the same",
        )
    )
    for side in active:
        module = sides.MODULE_OF[side]
        findings.append(_types(side, module, module in support.module_btf))
    return findings


def examine_plan(plan: Plan) -> list[Finding]:
    """Return a finding for each probe: attachable, or what is lost without it."""
    findings = [
        Finding(f"{probe.kind} {probe.target or probe.program}", "ok", probe.purpose)
        for probe in plan.probes
    ]
    findings += [
        Finding(
            f"{missing.probe.kind} {missing.probe.target}",
            "fatal" if missing.probe.required else "missing",
            f"{missing.reason}; lost: {missing.probe.lost}",
            f"modprobe {missing.probe.module}" if missing.probe.module != "vmlinux" else None,
        )
        for missing in plan.missing
    ]
    return findings


def _types(side: str, module: str, there: bool) -> Finding:
    what = f"{side} types"
    if there:
        return Finding(what, "ok", f"type information of {module} is there")
    return Finding(
        what,
        "missing",
        f"module {module} has no BTF; what that costs stands below",
        "use a kernel with CONFIG_DEBUG_INFO_BTF_MODULES=y (5.11 or later)",
    )


def _finding(what: str, ok: bool, good: str, bad: str, mend: str | None) -> Finding:
    return Finding(what, "ok", good) if ok else Finding(what, "fatal", bad, mend)
