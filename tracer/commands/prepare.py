"""``nfsblame prepare``."""

from __future__ import annotations

import os

import click

from tracer import host, sides
from tracer.children import Compiler
from tracer.options import side_option


@click.command()
@side_option("which side of NFS to prepare for")
def command(side: str) -> None:
    """Compile the BPF programs for this kernel and keep them.

    Run it once after installing and after each kernel update: record then starts
    without bcc, which matters when the disk it would be read from hangs. Needs root.

    \b
    Example:
      nfsblame prepare
    """
    chosen = sides.choose(host.kernel_support(), side)
    loaded = Compiler(chosen).result()
    for fd in (*loaded.maps.values(), *(fd for _, fd in loaded.programs)):
        os.close(fd)
    click.echo(
        f"{len(loaded.programs)} programs for the {' and the '.join(chosen)} side "
        "load on this kernel"
    )
    for missing in loaded.missing:
        click.echo(f"missing {missing['target']}: {missing['reason']}; lost: {missing['lost']}")
