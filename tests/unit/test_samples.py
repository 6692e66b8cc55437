from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tracer.procfs.held_open import SAMPLED
from tracer.procfs.samples import figures, parse

S = 1_000_000_000
NET_HEAD = "Inter-|   Receive  |  Transmit\n face |bytes packets errs | bytes\n"


def between(old: dict[str, str], new: dict[str, str], seconds: float = 2.0) -> dict[str, float]:
    found = figures(parse(10 * S, old), parse(10 * S + int(seconds * S), new))
    return {f"{f.scope}/{f.name or ''}/{f.metric}": f.value for f in found}


def test_cpu_memory_and_pressure() -> None:
    old = {"/proc/stat": "cpu  100 0 100 1000 50 0 0 0 0 0\ncpu0 1 1 1 1\n"}
    new = {
        "/proc/stat": "cpu  120 0 110 1050 70 0 0 0 0 0\nprocs_running 3\nprocs_blocked 1\n",
        "/proc/meminfo": "MemTotal: 100 kB\nMemAvailable:   64 kB\n",
        "/proc/pressure/io": (
            "some avg10=12.50 avg60=1.00 avg300=0.10 total=9\n"
            "full avg10=2.00 avg60=0.00 avg300=0.00 total=1\n"
        ),
    }
    assert between(old, new) == {
        "host//cpu_busy_percent": 30.0,
        "host//cpu_iowait_percent": 20.0,
        "host//cpu_steal_percent": 0.0,
        "host//runnable": 3,
        "host//mem_available_bytes": 65536,
        "host//pressure_io_some_percent": 12.5,
        "host//pressure_io_full_percent": 2.0,
    }


def test_disks() -> None:
    old = (
        " 254 0 vda 100 0 1000 50 100 0 2000 100 0 500 150 0 0 0 0 0 0\n"
        " 254 1 vda1 50 0 500 25 50 0 1000 50 0 250 75 0 0 0 0 0 0\n"
        " 254 2 vda2 5 0 5 5 5 0 10 5 0 2 7 0 0 0 0 0 0\n"
        "   7 0 loop0 1 0 1 1 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
        "   8 0 sda 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
    new = (
        " 254 0 vda 110 0 1100 150 130 0 2400 400 2 1500 550 0 0 0 0 0 0\n"
        " 254 1 vda1 60 0 600 125 50 0 1000 50 0 350 175 0 0 0 0 0 0\n"
        " 254 2 vda2 5 0 5 5 5 0 10 5 0 2 7 0 0 0 0 0 0\n"
        "   7 0 loop0 1 0 1 1 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
        "   8 0 sda 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
    assert between({"/proc/diskstats": old}, {"/proc/diskstats": new}) == {
        "disk/vda/busy_percent": 50.0,
        "disk/vda/read_bytes_per_s": 100 * 512 / 2,
        "disk/vda/write_bytes_per_s": 400 * 512 / 2,
        "disk/vda/in_flight": 2,
        "disk/vda/queue_length": 0.2,
        "disk/vda/await_ms": 10.0,
        "disk/vda1/busy_percent": 5.0,
        "disk/vda1/read_bytes_per_s": 100 * 512 / 2,
        "disk/vda1/write_bytes_per_s": 0.0,
        "disk/vda1/in_flight": 0,
        "disk/vda1/queue_length": 0.05,
        "disk/vda1/await_ms": 10.0,
    }


def test_volumes_that_are_suspended() -> None:
    texts = {f"/sys/block/dm-{at}/dm/suspended": f"{at % 2}\n" for at in range(4)}
    assert between({}, texts) == {"disk/dm-1/suspended": 1, "disk/dm-3/suspended": 1}


def test_network() -> None:
    old = NET_HEAD + (
        "  eth0: 1000 10 0 1 0 0 0 0 2000 20 0 1 0 0 0 0\n  eth1:0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
    new = NET_HEAD + (
        "  eth0: 3000 20 0 3 0 0 0 0 8000 30 0 2 0 0 0 0\n  eth1:0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
    assert between({"/proc/net/dev": old}, {"/proc/net/dev": new}) == {
        "net/eth0/rx_bytes_per_s": 1000.0,
        "net/eth0/tx_bytes_per_s": 3000.0,
        "net/eth0/drops": 3,
    }


def test_tcp() -> None:
    def texts(out: int, retrans: int, timeouts: int) -> dict[str, str]:
        return {
            "/proc/net/snmp": f"Tcp: MaxConn OutSegs RetransSegs\nTcp: -1 {out} {retrans}\n",
            "/proc/net/netstat": f"TcpExt: A TCPTimeouts\nTcpExt: 0 {timeouts}\nIpExt: B\nIpExt: 1",
        }

    assert between(texts(100, 5, 1), texts(300, 9, 4)) == {
        "tcp//retrans_segs_per_s": 2.0,
        "tcp//out_segs_per_s": 100.0,
        "tcp//timeouts": 3.0,
    }


def test_counters_that_ran_backwards_give_nothing() -> None:
    text = " 254 0 vda {0} 0 1000 50 100 0 2000 100 0 500 150\n"
    old, new = text.format(9), text.format(3)
    assert between({"/proc/diskstats": old}, {"/proc/diskstats": new}) == {}


def test_no_time_between_gives_nothing() -> None:
    texts = {"/proc/meminfo": "MemAvailable: 1 kB\n"}
    assert between(texts, texts, seconds=0) == {}


def test_this_host() -> None:
    texts = {path: Path(path).read_text() for path in SAMPLED if Path(path).exists()}
    metrics = between(texts, texts)
    assert metrics["host//mem_available_bytes"] > 0
    assert metrics["tcp//out_segs_per_s"] == 0


@given(st.dictionaries(st.sampled_from(SAMPLED), st.text(max_size=200)))
def test_any_text_gives_figures_or_none(files: dict[str, str]) -> None:
    between(files, files)


def test_nfsd_threads_are_as_of_now_and_their_times_of_the_interval() -> None:
    old = {"threads": 8, "busy": 8, "none_free_us": 500, "none_free_times": 2}
    new = {"threads": 16, "busy": 3, "none_free_us": 1500, "none_free_times": 2}
    found = figures(parse(10 * S, {}, old), parse(11 * S, {}, new))
    assert {figure.metric: figure.value for figure in found if figure.scope == "nfsd"} == {
        "threads": 16,
        "busy": 3,
        "none_free_us": 1000,
        "none_free_times": 0,
    }
    assert not figures(parse(10 * S, {}, old), parse(11 * S, {}, None))
