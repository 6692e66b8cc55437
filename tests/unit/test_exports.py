"""Exported filesystems by device."""

from __future__ import annotations

import pytest

from tracer.procfs.exports import exported_devices

MOUNTINFO = r"""
23 1 254:0 / / rw - ext4 /dev/vda rw
41 23 254:48 / /srv/export rw - ext4 /dev/vdd rw
42 23 254:49 / /srv/a\040b rw - ext4 /dev/vde rw
43 23 254:49 /part /srv/bound rw - ext4 /dev/vde rw
44 23 254:48 / /srv/hidden rw - ext4 /dev/vdd rw
45 44 254:49 / /srv/hidden rw - ext4 /dev/vde rw
""".strip()
ROOT, EXPORT, SPACED = (254 << 20), (254 << 20 | 48), (254 << 20 | 49)


@pytest.mark.parametrize(
    ("lines", "devices"),
    [
        ([], set()),
        (["# Version 1.1", "# Path Client(Flags) # IPs"], set()),
        (["/srv/export\t192.168.56.0/24(rw,no_root_squash)"], {EXPORT}),
        (["/srv/export/deep/er\t*(rw)"], {EXPORT}),
        ([r"/srv/a\040b" + "\t*(rw)"], {SPACED}),
        (["/srv\t*(rw)"], {ROOT}),
        (["/srv/bound/x\t*(rw)"], {SPACED}),
        # Exported before the other was mounted over it, or after: its path does not tell.
        (["/srv/hidden\t*(rw)"], {EXPORT, SPACED}),
        # The folders above the exports, shown to NFSv4 clients only.
        (["/\t*(ro,v4root,fsid=0)", "/srv/export\t*(rw)"], {EXPORT}),
        (["no path"], set()),
    ],
)
def test_an_export_is_of_the_filesystem_it_lies_on(lines: list[str], devices: set[int]) -> None:
    assert exported_devices("\n".join(lines).encode(), MOUNTINFO.encode()) == devices
