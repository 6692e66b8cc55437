"""Who is at the other end of a process's TCP connections, by files of /proc."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tracer.procfs.aside import Aside
from tracer.procfs.peers import Peer, Peers, peers

SCANNER, ENGINE, OTHER = (402, 3_100_000_000), (500, 3_200_000_000), (501, 3_300_000_000)
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout"
MAPPED = "0000000000000000FFFF0000"


def row(local: str, remote: str, inode: int, state: str = "01") -> str:
    """A row as Linux 6.1 prints it."""
    return (
        f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 "
        f"{inode} 1 0000000000000000 20 4 30 10 -1"
    )


A, B, FAR = "0100007F:9C40", "0100007F:0CEE", "0A38A8C0:0801"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    add(tmp_path, SCANNER, [11], [row(A, B, 11), row(B, A, 12)])
    add(tmp_path, ENGINE, [12])
    add(tmp_path, OTHER, [13])
    (tmp_path / "sys").mkdir()
    return tmp_path


def add(proc: Path, key: tuple[int, int], sockets: Iterable[int], rows: Iterable[str] = ()) -> None:
    folder = proc / str(key[0])
    (folder / "fd").mkdir(parents=True)
    (folder / "fd" / "0").symlink_to("/dev/null")
    for number, socket in enumerate(sockets, 3):
        (folder / "fd" / str(number)).symlink_to(f"socket:[{socket}]")
    (folder / "stat").write_text(f"{key[0]} (x) S {'0 ' * 18}{key[1] // 10_000_000} 0")
    (folder / "net").mkdir()
    (folder / "net/tcp").write_text("\n".join([HEAD, *rows]) + "\n")


def test_the_process_at_the_other_end(proc: Path) -> None:
    assert list(peers(proc, [SCANNER])) == [Peer(SCANNER, ENGINE, True)]
    # Of whom these are no connections.
    assert list(peers(proc, [ENGINE, OTHER, (77, 0)])) == []


def test_a_socket_of_ipv6_that_speaks_ipv4(proc: Path) -> None:
    (proc / "402/net/tcp").write_text("\n".join([HEAD, row(A, B, 11)]))
    (proc / "402/net/tcp6").write_text("\n".join([HEAD, row(MAPPED + B, MAPPED + A, 12)]))
    assert list(peers(proc, [SCANNER])) == [Peer(SCANNER, ENGINE, True)]


def test_all_that_have_it_are_peers(proc: Path) -> None:
    (proc / "501/fd/9").symlink_to("socket:[12]")
    assert list(peers(proc, [SCANNER])) == [
        Peer(SCANNER, ENGINE, False),
        Peer(SCANNER, OTHER, False),
    ]


def test_who_is_connected_to_another_host_has_no_only_peer(proc: Path) -> None:
    rows = [row(A, B, 11), row(B, A, 12), row(A, FAR, 11)]
    (proc / "402/net/tcp").write_text("\n".join([HEAD, *rows]))
    assert list(peers(proc, [SCANNER])) == [Peer(SCANNER, ENGINE, False)]


def test_who_is_connected_to_the_kernel_too_has_no_only_peer(proc: Path) -> None:
    rows = [row(A, B, 11), row(B, A, 12), row(A, FAR, 11), row(FAR, A, 0)]
    (proc / "402/net/tcp").write_text("\n".join([HEAD, *rows]))
    assert list(peers(proc, [SCANNER])) == [Peer(SCANNER, ENGINE, False)]


def test_who_is_connected_to_itself_has_no_only_peer(proc: Path) -> None:
    (proc / "402/fd/9").symlink_to("socket:[21]")
    (proc / "402/fd/10").symlink_to("socket:[22]")
    own = [row("0100007F:0001", "0100007F:0002", 21), row("0100007F:0002", "0100007F:0001", 22)]
    (proc / "402/net/tcp").write_text("\n".join([HEAD, row(A, B, 11), row(B, A, 12), *own]))
    assert list(peers(proc, [SCANNER])) == [Peer(SCANNER, ENGINE, False)]


@pytest.mark.parametrize(
    "rows", [[row(A, B, 11, "0A"), row(B, A, 12)], [row(A, B, 11)], ["nonsense"], []]
)
def test_none_where_none_is_connected(proc: Path, rows: list[str]) -> None:
    (proc / "402/net/tcp").write_text("\n".join([HEAD, *rows]))
    assert list(peers(proc, [SCANNER])) == []


def test_they_are_looked_for_now_and_then_and_told_once(proc: Path) -> None:
    now, aside = [0.0], Aside()
    watch = Peers(proc, aside, lambda: now[0])

    def look() -> list[Peer]:
        watch.want(SCANNER)
        found = watch.found()
        aside.settle(5)
        return found or watch.found()

    assert look() == [Peer(SCANNER, ENGINE, True)]
    (proc / "501/fd/9").symlink_to("socket:[12]")
    now[0] = 5
    assert look() == []
    now[0] = 15
    assert look() == [Peer(SCANNER, ENGINE, False), Peer(SCANNER, OTHER, False)]
