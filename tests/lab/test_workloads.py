"""Workloads that others test filesystems with, run while both guests are recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Boot, Guests
from counting import MOUNT, compare

FIO = f"""
fio --name=mixed --directory={MOUNT} --ioengine=psync --rw=randrw --bs=4k --size=1m --numjobs=2 \
    --fsync=32 --unlink=1 --group_reporting --output=/dev/null
fio --name=mapped --directory={MOUNT} --ioengine=mmap --rw=randwrite --bs=4k --size=512k \
    --unlink=1 --output=/dev/null
"""
# What connectathon's "basic", "general", "special" and "lock" ask of a filesystem.
BASIC = f"""
python3 - {MOUNT}/basic <<'end'
import errno, fcntl, os, stat, sys
from pathlib import Path

top = Path(sys.argv[1])
top.mkdir()

def fails(code, function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno == code, error
    else:
        raise AssertionError(function)

def tree(folder, depth):
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name * depth)
        if depth:
            tree(folder / f"in-{{name}}", depth - 1)

tree(top / "tree", 3)
files = [path for path in (top / "tree").rglob("*") if path.is_file()]
assert len(files) == 30
for path in files:
    path.unlink()
for folder in sorted((top / "tree").rglob("*"), reverse=True):
    folder.rmdir()
(top / "tree").rmdir()

deep = top
for level in range(20):
    deep /= f"level-{{level}}"
    deep.mkdir()
(deep / "file").write_text("deep")
assert (deep / "file").read_text() == "deep"
(deep / "file").unlink()
while deep != top:
    deep.rmdir()
    deep = deep.parent

many = top / "many"
many.mkdir()
names = {{f"file-{{number:03}}" for number in range(80)}}
for name in names:
    (many / name).touch()
assert set(os.listdir(many)) == names
for name in names:
    (many / name).unlink()
assert not os.listdir(many)
many.rmdir()

file, other = top / "file", top / "other"
data = os.urandom(300_000)
file.write_bytes(data)
assert file.read_bytes() == data
os.truncate(file, 100)
os.truncate(file, 5000)
assert file.read_bytes() == data[:100] + bytes(4900)
file.chmod(0o600)
os.utime(file, (1, 2))
found = file.stat()
assert (found.st_mtime, stat.S_IMODE(found.st_mode), found.st_size) == (2, 0o600, 5000)
os.link(file, other)
assert file.stat().st_nlink == 2
os.rename(other, top / "third")
fails(errno.ENOENT, other.stat)
fails(errno.EEXIST, os.open, file, os.O_CREAT | os.O_EXCL)
fails(errno.ENOTDIR, (file / "in").stat)
fails(errno.EISDIR, os.open, top, os.O_WRONLY)
other.symlink_to("file")
assert os.readlink(other) == "file"
assert other.read_bytes() == file.read_bytes()
assert os.statvfs(top).f_blocks > 0

# Written to after it has no name any more, and renamed onto while it is open.
with open(top / "gone", "w+") as gone, open(top / "third", "rb") as third:
    os.unlink(top / "gone")
    gone.write("still here")
    gone.seek(0)
    assert gone.read() == "still here"
    (top / "new").write_text("new")
    os.rename(top / "new", top / "third")
    assert third.read(100) == data[:100]
with open(file, "r+b") as holes:
    holes.seek(1 << 30)
    holes.write(b"end")
    os.fsync(holes.fileno())
    assert holes.seek(0, os.SEEK_END) == (1 << 30) + 3

# A lock of one process is not another's.
with open(file, "r+b") as held:
    fcntl.lockf(held, fcntl.LOCK_EX, 100, 50)
    if not (child := os.fork()):
        with open(file, "r+b") as wanted:
            fails(errno.EAGAIN, fcntl.lockf, wanted, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 0)
            fcntl.lockf(wanted, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    fcntl.lockf(held, fcntl.LOCK_UN, 100, 50)

for name in ("file", "other", "third"):
    (top / name).unlink()
top.rmdir()
end
"""
SQLITE = f"""
python3 - {MOUNT}/database <<'end'
import os, sqlite3, sys

for mode in ("wal", "delete"):
    database = sqlite3.connect(sys.argv[1], isolation_level=None)
    assert database.execute(f"PRAGMA journal_mode={{mode}}").fetchone() == (mode,)
    database.execute("CREATE TABLE visits (number INTEGER PRIMARY KEY, text TEXT)")
    for number in range(10):
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO visits VALUES (?, ?)", (number, "x" * 1000))
        database.execute("ROLLBACK" if number % 5 == 4 else "COMMIT")
    assert database.execute("SELECT count(*) FROM visits").fetchone() == (8,)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    os.unlink(sys.argv[1])
end
"""
GIT = f"""
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q /var/tmp/origin
cp -r /usr/share/perl5/Git* /var/tmp/origin
git -C /var/tmp/origin add .
git -C /var/tmp/origin commit -qm all
git clone -q --no-hardlinks /var/tmp/origin {MOUNT}/clone
git -C {MOUNT}/clone fsck
[ -z "$(git -C {MOUNT}/clone status --porcelain)" ]
diff -r --exclude .git /var/tmp/origin {MOUNT}/clone
"""
TAR = f"""
tar -cf {MOUNT}/all.tar -C /usr/lib/python3 dist-packages/bcc
mkdir {MOUNT}/untarred
tar -xf {MOUNT}/all.tar -C {MOUNT}/untarred
diff -r /usr/lib/python3/dist-packages/bcc {MOUNT}/untarred/dist-packages/bcc
tar -cf - -C {MOUNT} untarred clone | tar -tf - > /dev/null
rm -r {MOUNT}/all.tar {MOUNT}/untarred {MOUNT}/clone
"""
REDIS = f"""
mkdir {MOUNT}/redis
redis-server --daemonize yes --port 7000 --dir {MOUNT}/redis --save '' \
    --appendonly yes --appendfsync always > /dev/null
until timeout 10 redis-cli -p 7000 ping 2> /dev/null | grep -q PONG; do sleep 0.1; done
redis-cli -p 7000 -r 100 incr visits > /dev/null
redis-cli -p 7000 shutdown nosave
until ! pgrep -x redis-server > /dev/null; do sleep 0.1; done
rm -r {MOUNT}/redis
"""
WORKS = (FIO, BASIC, SQLITE, GIT, TAR, REDIS)
# What the kernel says when a program of ours, or what it is attached to, goes wrong.
TROUBLE = re.compile("BUG: |WARNING: ")


@pytest.fixture(scope="module")
def lab(boot: Boot) -> Iterator[Guests]:
    guests = boot(packages={"client": ["fio", "git"]})
    yield guests
    guests.lab.down()


def test_run_and_are_counted(lab: Guests, tmp_path: Path) -> None:
    asked = compare(lab, tmp_path, {"4.2": [f"set -e{work}" for work in WORKS]})
    assert len(asked["4.2"]) >= 20
    for guest in ("client", "server"):
        log = lab.exec(guest, "dmesg").stdout
        assert not [line for line in log.splitlines() if TROUBLE.search(line)]
