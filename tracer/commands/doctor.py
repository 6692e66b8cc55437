"""``nfsblame doctor``."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Final

import click

from tracer import compiler, host, sides
from tracer.children import child_environment
from tracer.doctor import Finding, examine_host, examine_plan
from tracer.errors import Exit, NfsblameError
from tracer.options import side_option

_BCC_TIMEOUT_S: Final = 60.0


@click.command()
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="for people or for programs",
)
@side_option("which side of NFS to ask about")
@click.pass_context
def command(ctx: click.Context, format_: str, side: str) -> None:
    """Say what can be traced here, what would be missing, and the mend.

    Changes nothing on the host: no program is loaded. Exit code 0 if record would
    work, 3 or 4 if not.

    \b
    Examples:
      nfsblame doctor
      nfsblame doctor --format json
    """
    support = host.kernel_support()
    findings = examine_host(support, *_bcc())
    wanted = {"auto": sides.found(support), "both": ["server", "client"]}.get(side, [side])
    if support.btf and wanted:
        try:
            findings += examine_plan(compiler.planned(compiler.kernel_types(), wanted))
        except NfsblameError as error:
            findings.append(Finding("types", "fatal", str(error)))
    if format_ == "json":
        document = {
            "host": host.host_name(),
            "kernel": host.kernel_release(),
            "sides": wanted,
            "findings": [asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        _print(findings)
    fatal = [finding.what for finding in findings if finding.state == "fatal"]
    if fatal:
        ctx.exit(Exit.PRIVILEGE if fatal == ["root"] else Exit.KERNEL)


def _bcc() -> tuple[str | None, str | None]:
    """Return (version, None) or (None, what to do), asked of a child: bcc is heavy."""
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "tracer.bcc_module"],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=_BCC_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, (
            f"importing it took more than {_BCC_TIMEOUT_S:.0f} s: does the disk it is on hang?"
        )
    if asked.returncode == 0:
        return asked.stdout.strip(), None
    return None, asked.stderr.strip() or f"its import ended with status {asked.returncode}"


def _print(findings: list[Finding]) -> None:
    marks = {"ok": "ok     ", "missing": "missing", "fatal": "FATAL  "}
    for finding in findings:
        click.echo(f"{marks[finding.state]} {finding.what}: {finding.detail}")
        if finding.mend:
            click.echo(f"        -> {finding.mend}")
