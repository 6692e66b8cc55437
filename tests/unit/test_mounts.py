"""Devices to mount points: bind mounts, pods, namespaces, and devices used again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.procfs.mounts import Mount, Mounts, Place, parse_mountinfo, place_of

UID = "8f0c2b1e-8d5e-4a55-9d3c-2d6f2c1b0a99"
OTHER_UID = "11111111-8d5e-4a55-9d3c-2d6f2c1b0a99"
DEV = 44


def line(point: str, minor: int = DEV, root: str = "/") -> str:
    return f"40 22 0:{minor} {root} {point} rw,relatime shared:1 - nfs4 10.9.0.1:/ rw\n"


def volume(uid: str, name: str) -> str:
    return f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{name}/mount"


class Host:
    """A /proc with processes in mount namespaces, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.second = 0
        self.now_ns = 0
        self.own("")

    def own(self, text: str) -> None:
        self._write("self", text, "mnt:[1]")

    def process(self, pid: int, text: str, namespace: int = 2) -> None:
        self._write(str(pid), text, f"mnt:[{namespace}]")

    def end(self, pid: int) -> None:
        (self.root / str(pid) / "ns/mnt").unlink()

    def interval(self, mounts: Mounts) -> None:
        """Go on by a second: what ended in it is asked for now."""
        self.second += 1
        self.now_ns = self.second * 10**9
        mounts.new_interval(self.now_ns - 10**9, self.now_ns)

    def clock(self) -> int:
        return self.now_ns

    def _write(self, process: str, text: str, namespace: str) -> None:
        folder = self.root / process / "ns"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mnt").unlink(missing_ok=True)
        (folder / "mnt").symlink_to(namespace)
        (self.root / process / "mountinfo").write_bytes(text.encode("utf-8", "surrogateescape"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "proc")


@pytest.fixture
def mounts(host: Host) -> Mounts:
    mounts = Mounts(host.root, host.clock)
    host.interval(mounts)
    return mounts


def test_mountinfo() -> None:
    text = (
        b"22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"
        b"40 22 0:44 / /mnt/nfs rw,relatime shared:1 - nfs4 10.9.0.1:/ rw,vers=4.2\n"
        b"41 22 0:44 /sub /mnt/again rw - nfs4 10.9.0.1:/ rw\n"
    )
    assert parse_mountinfo(text) == {
        254 << 20 | 1: (Mount("/dev/vda1/", "/"),),
        44: (Mount("10.9.0.1:/", "/mnt/nfs"), Mount("10.9.0.1:/sub", "/mnt/again")),
    }


@pytest.mark.parametrize(
    ("raw", "point"),
    [
        (rb"/mnt/a\040b\011c\012d\134e\043", "/mnt/a b\tc\nd\\e#"),
        (b"/mnt/\xe9t\xe9", "/mnt/\\xe9t\\xe9"),
        ("/mnt/\u2028\x0b\x0c\x1c\x85".encode(), "/mnt/\u2028\x0b\x0c\x1c\x85"),
        (b"/mnt/'\"\x1b[31m", "/mnt/'\"\x1b[31m"),
        (rb"/mnt/\777", "/mnt/\\xff"),
    ],
)
def test_points_of_any_bytes(raw: bytes, point: str) -> None:
    text = b"40 22 0:44 / " + raw + b" rw - nfs4 10.9.0.1:/ rw\n" + line("/mnt/b", 45).encode()
    assert parse_mountinfo(text) == {
        44: (Mount("10.9.0.1:/", point),),
        45: (Mount("10.9.0.1:/", "/mnt/b"),),
    }


@given(st.binary(max_size=300))
def test_any_bytes_are_mountinfo_or_not(text: bytes) -> None:
    parse_mountinfo(text)


A, B = volume(UID, "pvc-1"), volume(OTHER_UID, "pvc-2")


@pytest.mark.parametrize(
    ("mounts", "pod", "place"),
    [
        ([("/", "/mnt/nfs")], None, Place("/mnt/nfs")),
        ([("/", "/mnt/nfs"), ("/sub", "/home")], None, Place("/mnt/nfs")),
        ([("/sub", "/home"), ("/", "/mnt/nfs")], None, Place("/mnt/nfs")),
        ([("/", "/mnt/nfs"), ("/", "/mnt/again")], None, Place("/mnt/nfs")),
        # Two parts of a filesystem: the device does not tell which.
        ([("/home/a", "/home/a"), ("/home/ab", "/home/ab")], None, Place()),
        ([("/a", A), ("/b", B)], UID, Place(A, "pvc-1")),
        ([("/a", A), ("/b", B)], OTHER_UID, Place(B, "pvc-2")),
        ([("/a", A), ("/b", B)], None, Place()),
        ([("/", A), ("/", B)], None, Place(A)),
        ([("/", A)], None, Place(A, "pvc-1")),
        ([("/", A), ("/", "/mnt/nfs")], None, Place(A)),
        # Of another pod: whose volume that is says nothing of this one's.
        ([("/", A)], OTHER_UID, Place(A)),
        ([], None, Place()),
    ],
)
def test_several_mounts_of_a_device(
    mounts: list[tuple[str, str]], pod: str | None, place: Place
) -> None:
    assert place_of([Mount(*mount) for mount in mounts], pod) == place


def test_folders_of_a_server_mounted_side_by_side_are_told_by_their_source() -> None:
    lines = [f"4{n} 22 0:44 / /mnt/{n} rw - nfs4 10.9.0.1:/srv/{n} rw\n".encode() for n in "ab"]
    ((dev, mounts),) = parse_mountinfo(b"".join(lines)).items()
    assert (dev, place_of(mounts, None)) == (DEV, Place())


def test_mountinfo_is_read_once_in_an_interval(host: Host, mounts: Mounts) -> None:
    host.own(line("/mnt/nfs"))
    assert mounts.place(0, 811, None) == Place()
    assert mounts.place(DEV, 811, None) == Place("/mnt/nfs")
    host.own(line("/mnt/nfs") + line("/mnt/new", 46))
    assert mounts.place(46, 811, None) == Place()
    host.interval(mounts)
    assert mounts.place(46, 811, None) == Place("/mnt/new")


def test_unmounted_filesystem_is_still_named_in_the_interval(host: Host, mounts: Mounts) -> None:
    host.own(line("/mnt/nfs"))
    mounts.place(DEV, 0, None)
    host.own("")
    host.interval(mounts)
    assert mounts.place(DEV, 0, None) == Place("/mnt/nfs")
    host.interval(mounts)
    host.interval(mounts)
    assert mounts.place(DEV, 0, None) == Place()


def test_device_used_again_is_unknown_while_it_may_be_either(host: Host, mounts: Mounts) -> None:
    host.own(line("/mnt/a"))
    assert mounts.place(DEV, 0, None) == Place("/mnt/a")
    host.own(line("/mnt/b"))
    host.interval(mounts)
    assert mounts.place(DEV, 0, None) == Place()
    host.interval(mounts)
    mounts.place(DEV, 0, None)
    host.interval(mounts)
    assert mounts.place(DEV, 0, None) == Place("/mnt/b")


def test_another_bind_mount_changes_nothing(host: Host, mounts: Mounts) -> None:
    host.own(line("/mnt/a"))
    mounts.place(DEV, 0, None)
    host.own(line("/mnt/a") + line("/srv", root="/part"))
    host.interval(mounts)
    assert mounts.place(DEV, 0, None) == Place("/mnt/a")


def test_mount_in_the_namespace_of_the_process(host: Host, mounts: Mounts) -> None:
    host.process(811, line("/data"))
    host.process(812, line("/other"), namespace=3)
    assert mounts.place(DEV, 811, None) == Place("/data")
    assert mounts.place(DEV, 812, None) == Place("/other")
    # Of nobody's: the namespaces differ.
    host.interval(mounts)
    assert mounts.place(DEV, 0, None) == Place()


def test_own_namespace_comes_first(host: Host, mounts: Mounts) -> None:
    host.own(line("/mnt/nfs"))
    host.process(811, line("/data"))
    assert mounts.place(DEV, 811, None) == Place("/mnt/nfs")


def test_namespace_of_a_process_that_ended(host: Host, mounts: Mounts) -> None:
    host.process(811, line("/data"))
    mounts.discover()
    host.end(811)
    assert mounts.place(DEV, 811, None) == Place("/data")
    for _ in range(3):
        host.interval(mounts)
        last = mounts.place(DEV, 811, None)
    assert last == Place()


def test_namespace_lived_until_it_was_found_gone(host: Host, mounts: Mounts) -> None:
    """A writer that is late looks long after the end of the interval it writes."""
    host.process(811, line("/data"))
    mounts.discover()
    host.interval(mounts)
    host.now_ns += 5 * 10**9
    host.end(811)
    assert mounts.place(DEV, 811, None) == Place("/data")
    late_s = host.now_ns // 10**9
    while host.second < late_s:
        host.interval(mounts)
        assert mounts.place(DEV, 811, None) == Place("/data")
    host.interval(mounts)
    assert mounts.place(DEV, 811, None) == Place()


def test_namespace_is_found_through_any_process_in_it(host: Host, mounts: Mounts) -> None:
    host.process(812, line("/data"))
    assert mounts.place(DEV, 811, None) == Place("/data")


def test_no_mountinfo(tmp_path: Path) -> None:
    assert Mounts(tmp_path / "none").place(DEV, 811, None) == Place()
