"""Strings that every table can hold: valid UTF-8, whatever the kernel had."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address


def decoded(raw: bytes) -> str:
    """Return text of the kernel as it is; bytes that are no UTF-8 as ``\\xNN``."""
    return raw.decode("utf-8", "backslashreplace")


def clean(text: str) -> str:
    """Return ``text`` with lone surrogates, which no UTF-8 can hold, as ``\\udNNN``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@lru_cache(maxsize=4096)
def address(raw: bytes) -> str | None:
    """Return the IP address in 16 bytes, IPv4-mapped ones as IPv4; None if all are zero."""
    if not any(raw):
        return None
    ip = IPv6Address(raw)
    return str(ip.ipv4_mapped or ip)
