"""Strings from captures made safe for terminals and files.

Process names, paths and kernel messages are chosen by whoever runs the process. They
must not move the cursor, change colours, hide text or reverse its order.
"""

from __future__ import annotations

import os
import shlex
import unicodedata
from typing import Final

MAX_LENGTH: Final = 400
_MESSAGE_LENGTH: Final = 4000

# Categories that print nothing of their own: controls (C0, C1, DEL), format characters
# (bidirectional overrides, zero width, tags), lone surrogates, private use, unassigned,
# separators that break a line, and spaces that only look like one.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_COMBINING: Final = frozenset({"Mn", "Me"})
_MAX_COMBINING: Final = 2


def sanitise(text: str, max_length: int = MAX_LENGTH) -> str:
    r"""Return text with what is unsafe to print written out as ``\x1b`` or ``\u202e``.

    Square brackets stay: the renderers never interpret markup. Long text is cut.
    """
    out: list[str] = []
    combining = 0
    for character in text[: max_length + 1]:
        category = unicodedata.category(character)
        combining = combining + 1 if category in _COMBINING else 0
        unsafe = category in _UNSAFE and character != " "
        out.append(_escaped(character) if unsafe or combining > _MAX_COMBINING else character)
    if len(text) > max_length:
        out[max_length:] = ["…"]
    return "".join(out)


def printable(text: str) -> str:
    """Return a message of several lines with what is unsafe to print written out."""
    return "\n".join(sanitise(line, _MESSAGE_LENGTH) for line in text.split("\n"))


def shell_word(text: str) -> str:
    r"""Return a word to be typed into a shell, safe to print: ``$'a\x1b'`` where it must be."""
    if sanitise(text, len(text)) == text:
        return shlex.quote(text)
    characters = os.fsencode(text).decode("latin-1")
    return f"$'{''.join(map(_typed, characters))}'"


def _typed(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    return character if " " <= character <= "~" else f"\\x{ord(character):02x}"


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
