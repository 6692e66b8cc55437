"""Which filesystems nfsd has exported, by device number in the kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from tracer.procfs.mounts import parse_mountinfo, unescaped


def exported_devices(exports: bytes, mountinfo: bytes) -> frozenset[int]:
    """Return the dev_t of each exported filesystem, from two texts of /proc.

    ``exports`` is /proc/fs/nfsd/exports, which lists what clients have used so far. The
    pseudo root of NFSv4 (v4root) holds no files of anyone.
    """
    points: defaultdict[str, set[int]] = defaultdict(set)
    for dev, mounts in parse_mountinfo(mountinfo).items():
        for mount in mounts:
            points[mount.point].add(dev)
    found: set[int] = set()
    for line in exports.split(b"\n"):
        path, _, clients = line.partition(b"\t")
        if path.startswith(b"/") and b"v4root" not in clients:
            found |= _devices(unescaped(path), points)
    return frozenset(found)


def _devices(path: str, points: Mapping[str, set[int]]) -> set[int]:
    """Return the device of the mount that holds a path.

    Several where one is mounted over the other: nfsd keeps what it was when exported.
    """
    while path not in points and path != "/":
        path = path.rpartition("/")[0] or "/"
    return points.get(path, set())
