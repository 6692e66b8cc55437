"""Owners of foreign code, to text and back."""

from __future__ import annotations

import pytest

from tracer.owners import Owner, owner_of


@pytest.mark.parametrize(
    ("owner", "text"),
    [
        (Owner("module", "agent"), "module agent"),
        (Owner("bpf", "burn_opens", 41), "bpf burn_opens 41"),
    ],
)
def test_text_and_back(owner: Owner, text: str) -> None:
    assert owner.text() == text
    assert owner_of(text) == owner


@pytest.mark.parametrize(
    "text", [None, "", "bpf", "bpf x", "bpf x y", "bpf  1", "module ", "cpu x"]
)
def test_what_names_no_owner(text: str | None) -> None:
    assert owner_of(text) is None
