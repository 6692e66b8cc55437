"""Statuses of NFS with which a server puts a client off, as the kernel's client knows them."""

from __future__ import annotations

from typing import Final

NFS4ERR_DELAY: Final = 10008
NFS4ERR_GRACE: Final = 10013
# What NFSv3's NFS3ERR_JUKEBOX is to the client, include/linux/errno.h.
EJUKEBOX: Final = 528
