"""For all unit tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes is up to what else runs on the machine.
settings.register_profile("nfsblame", deadline=None)
settings.load_profile("nfsblame")
