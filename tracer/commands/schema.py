"""``nfsblame schema``: the tables of a capture, from the code that writes them."""

from __future__ import annotations

import json

import click

from tracer.schema_text import as_json, markdown


@click.command("schema")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Markdown for people, or JSON for programs.",
)
def command(form: str) -> None:
    """Print the tables of a capture: columns, types, meaning.

    \b
    Example, the columns of one table:
      nfsblame schema --format json | jq '.tables[] | select(.name == "waits")'
    """
    click.echo(json.dumps(as_json(), indent=1) if form == "json" else markdown(), nl=form == "json")
