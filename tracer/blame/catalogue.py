"""Known security agents: products by process name, path, module and BPF name.

The catalogue only adds a product's name to a process that is proven by evidence; it
never makes a process a suspect.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Agent:
    """One product. Names are shell patterns, paths are prefixes."""

    product: str
    processes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def catalogue() -> Sequence[Agent]:
    """Return the agents of ``agents.toml``, in its order."""
    text = (files("tracer.blame") / "agents.toml").read_text(encoding="utf-8")
    return tuple(
        Agent(
            row["product"],
            tuple(row.get("processes", ())),
            tuple(row.get("paths", ())),
            tuple(row.get("modules", ())),
        )
        for row in tomllib.loads(text)["agent"]
    )


def product_of(name: str, exe: str | None) -> str | None:
    """Return the product that a process belongs to; where it lies tells more than its name."""
    if exe:
        for agent in catalogue():
            if any(exe.startswith(path) for path in agent.paths):
                return agent.product
    for agent in catalogue():
        if any(fnmatchcase(name, pattern) for pattern in agent.processes):
            return agent.product
    return None


def product_of_module(name: str) -> str | None:
    """Return the product that a kernel module belongs to."""
    for agent in catalogue():
        if any(fnmatchcase(name, pattern) for pattern in agent.modules):
            return agent.product
    return None
