"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from tracer import sides

_Function = TypeVar("_Function", bound=Callable[..., Any])


def side_option(text: str) -> Callable[[_Function], _Function]:
    """Return the decorator that adds ``--side``, with this help."""
    return click.option(
        "--side",
        type=click.Choice(sides.CHOICES),
        default="auto",
        show_default=True,
        help=text,
    )
