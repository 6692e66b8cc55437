"""Captures as they come back from the field: copied, merged, cut off, forged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import (
    MS,
    S,
    capture,
    definitions,
    hello,
    interval,
    json_frame,
    latency,
    memory_use,
    noted_process,
    op,
    op_in_flight,
    proc,
    rpc,
    stream,
    wait,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer import wire
from tracer.calls import vfs_number
from tracer.errors import Exit, NfsblameError
from tracer.model import HostCapture, ProcessKey
from tracer.reader import read_captures
from tracer.records import LAYERS, SIDE_CLIENT, SIDE_SERVER
from tracer.store.keeper import Settings
from tracer.writer import write

(VFS,) = (number for number, layer in LAYERS.items() if layer == "vfs")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a capture with one operation, one wait and a histogram."""
    return capture(
        tmp_path / "capture",
        [interval(1, ops=[op(1, waits=[wait(1001, 1002, stack=7)])], latencies=[latency(50, 3)])],
    )


def only(path: Path) -> HostCapture:
    (host,) = read_captures([path])
    return host


def sealed(path: Path, table: str) -> Path:
    (file,) = path.glob(f"{table}/*/*/*.parquet")
    return file


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put a changed table in the place of a sealed one, with its footer."""
    table = pq.ParquetFile(file).read()
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file)


def column(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    """Return a change that puts ``values`` in the place of a column."""
    return lambda table: table.set_column(table.schema.get_field_index(name), name, values)


def refused(*paths: Path) -> NfsblameError:
    with pytest.raises(NfsblameError) as error:
        read_captures(paths)
    return error.value


class TestWhatIsNoCapture:
    def test_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        error = refused(tmp_path / "none")
        assert (error.exit_code, "does not exist" in str(error)) == (Exit.USAGE, True)
        assert "nfsblame record -o" in str(error)

    def test_file(self, path: Path) -> None:
        error = refused(sealed(path, "events"))
        assert error.exit_code == Exit.USAGE
        assert "is a file: give the folder" in str(error)

    def test_another_folder(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        error = refused(tmp_path)
        assert error.exit_code == Exit.USAGE
        assert "is not a capture" in str(error)

    def test_empty_capture(self, tmp_path: Path) -> None:
        (tmp_path / ".journal").mkdir()
        error = refused(tmp_path)
        assert error.exit_code == Exit.USAGE
        assert "holds no data" in str(error)

    @pytest.mark.parametrize("version", [2, "2", None])
    def test_another_schema_version(self, path: Path, version: object) -> None:
        def change(table: pa.Table) -> pa.Table:
            return table

        file = sealed(path, "events")
        table = pq.ParquetFile(file).read()
        footer = json.loads(table.schema.metadata[b"nfsblame"])
        footer |= {"schema": version, "version": "0.9.0"}
        metadata = {b"nfsblame": json.dumps(footer).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file)
        error = refused(path)
        assert error.exit_code == Exit.USAGE
        assert f"recorded by nfsblame 0.9.0, schema {version}" in str(error)
        assert "install nfsblame 0.9.0" in str(error)

    def test_all_of_it_damaged(self, path: Path) -> None:
        for file in path.glob("*/*/*/*.parquet"):
            file.write_bytes(b"PAR1 garbage")
        error = refused(path)
        assert error.exit_code == Exit.INCOMPLETE
        assert "copy the folder anew" in str(error)


class TestDamage:
    @pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", bytes(10_000)])
    def test_garbage_among_good_files_is_named(self, path: Path, data: bytes) -> None:
        bad = sealed(path, "latency").with_name("zzz.parquet")
        bad.write_bytes(data)
        host = only(path)
        assert [o.op_id for o in host.operations] == [1]
        assert host.incomplete == (f"skipped {bad}: damaged or cut off",)

    def test_cut_off_anywhere(self, path: Path) -> None:
        file = sealed(path, "waits")
        whole = file.read_bytes()
        for size in range(0, len(whole), 211):
            file.write_bytes(whole[:size])
            host = only(path)
            assert len(host.operations) == 1
            assert str(file) in host.incomplete[0]

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_any_bytes_changed_give_data_or_a_clear_error(self, path: Path, data: Any) -> None:
        table = data.draw(st.sampled_from(["operations", "waits", "latency", "stacks", "events"]))
        file = sealed(path, table)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 8))):
            damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(bytes(damaged))
        try:
            read_captures([path])
        except NfsblameError:
            pass
        finally:
            file.write_bytes(whole)

    def test_parquet_of_another_program(self, path: Path) -> None:
        other = sealed(path, "latency").with_name("other.parquet")
        pq.write_table(pa.table({"a": [1]}), other)
        assert only(path).incomplete == (f"skipped {other}: not written by nfsblame",)

    def test_temporary_files_are_not_read(self, path: Path) -> None:
        sealed(path, "latency").with_name(".x.parquet.tmp").write_bytes(b"half")
        assert only(path).incomplete == ()

    @pytest.mark.parametrize(
        "footer",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"schema": 1}',
            b'{"schema": 1, "clock": 7, "nfsd_threads": null, "ended": null}',
            b"\xff\xfe",
        ],
    )
    def test_footers_of_another_form(self, path: Path, footer: bytes) -> None:
        file = sealed(path, "latency")
        table = pq.ParquetFile(file).read()
        pq.write_table(table.replace_schema_metadata({b"nfsblame": footer}), file)
        host = only(path)
        assert len(host.operations) == 1
        assert str(file) in host.incomplete[0]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("host", 7),
            ("host", "x" * 10_000),
            ("threshold_us", "1"),
            ("threshold_us", True),
            ("end_us", 1 << 80),
            ("interval_s", None),
            ("clock", {"mono_ns": 1}),
            ("losses", [1]),
            ("losses", {"a": "b"}),
            ("overhead", {"a": []}),
            ("addresses", [1]),
            ("probes", 5),
            ("ended", 5),
        ],
    )
    def test_forged_footers(self, path: Path, key: str, value: object) -> None:
        file = sealed(path, "latency")
        table = pq.ParquetFile(file).read()
        footer = json.loads(table.schema.metadata[b"nfsblame"]) | {key: value}
        metadata = {b"nfsblame": json.dumps(footer).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file)
        assert "its metadata is damaged" in only(path).incomplete[0]


class TestForgedTables:
    @pytest.mark.parametrize(
        ("table", "name", "values", "why"),
        [
            ("latency", "bucket", pa.array(["5"]), "column bucket is string, not int64"),
            ("latency", "count", pa.array([1.5]), "column count is double, not int64"),
            ("latency", "op", pa.array([[1]]), "column op is list"),
            ("operations", "in_flight", pa.array([1]), "column in_flight is int64, not bool"),
            ("waits", "ts", pa.array([5]), "column ts is int64, not timestamp"),
            ("waits", "ts", pa.array([5], pa.timestamp("ns", "UTC")), "not timestamp[us, tz=UTC]"),
        ],
    )
    def test_wrong_types(
        self, path: Path, table: str, name: str, values: pa.Array, why: str
    ) -> None:
        rewrite(sealed(path, table), column(name, values))
        assert any(why in text for text in only(path).incomplete)

    def test_missing_columns(self, path: Path) -> None:
        rewrite(sealed(path, "latency"), lambda table: table.drop_columns(["bucket"]))
        assert "column bucket is missing" in only(path).incomplete[0]
        rewrite(sealed(path, "operations"), lambda table: table.drop_columns(["xid"]))
        assert only(path).operations[0].xid is None

    def test_more_columns_than_known_are_ignored(self, path: Path) -> None:
        rewrite(sealed(path, "latency"), lambda t: t.append_column("new", pa.array([1])))
        assert only(path).incomplete == ()

    @pytest.mark.parametrize(
        ("table", "name", "value"),
        [
            ("latency", "bucket", -1),
            ("latency", "bucket", 976),
            ("latency", "count", -5),
            ("latency", "max_us", 1 << 62),
            ("operations", "wall_us", -1),
            ("operations", "begin_mono_us", -(1 << 63)),
            ("operations", "xid", 1 << 40),
            ("waits", "total_us", (1 << 63) - 1),
        ],
    )
    def test_numbers_that_cannot_be(self, path: Path, table: str, name: str, value: int) -> None:
        rewrite(sealed(path, table), column(name, pa.array([value], pa.int64())))
        assert "left out 1 rows" in only(path).incomplete[0]

    @pytest.mark.parametrize(
        ("table", "name", "value"),
        [
            ("latency", "side", "both"),
            ("operations", "layer", ""),
            ("waits", "kind", "sleeping"),
            ("latency", "op", None),
        ],
    )
    def test_words_that_cannot_be(
        self, path: Path, table: str, name: str, value: str | None
    ) -> None:
        rewrite(sealed(path, table), column(name, pa.array([value], pa.string())))
        assert "left out 1 rows" in only(path).incomplete[0]

    @pytest.mark.parametrize("us", [-(1 << 62), 0, (1 << 63) - 1])
    def test_times_that_cannot_be(self, path: Path, us: int) -> None:
        values = pa.array([us], pa.int64()).cast(pa.timestamp("us", "UTC"))
        rewrite(sealed(path, "operations"), column("ts", values))
        host = only(path)
        assert "left out 1 rows" in host.incomplete[0]
        assert host.operations == []

    def test_figures_that_add_up_to_more_than_can_be(self, path: Path) -> None:
        count = 1 << 13

        def grow(table: pa.Table) -> pa.Table:
            many = pa.concat_tables([table] * count)
            return column("sum_us", pa.array([1 << 50] * count, pa.int64()))(many)

        rewrite(sealed(path, "latency"), grow)
        assert "adds up to more than can be" in only(path).incomplete[0]

    def test_texts_that_are_too_long_are_cut(self, path: Path) -> None:
        rewrite(sealed(path, "operations"), column("comm", pa.array(["é" * 1_000_000])))
        comm = only(path).operations[0].comm
        assert comm is not None
        assert len(comm) == 16384

    def test_text_that_is_no_utf8(self, path: Path) -> None:
        bad = pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
        )
        rewrite(sealed(path, "operations"), column("comm", bad))
        assert "damaged" in only(path).incomplete[0]

    @pytest.mark.parametrize("type_", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    def test_texts_as_other_tools_store_them(self, path: Path, type_: pa.DataType) -> None:
        rewrite(sealed(path, "latency"), column("op", pa.array(["READ"]).cast(type_)))
        assert only(path).latency[0].op == "READ"


def test_memory_that_was_given_back_is_read_back(tmp_path: Path) -> None:
    frame = wire.USES, memory_use(15, 700) + memory_use(16, -300)
    host = only(capture(tmp_path / "capture", [interval(1, frame)]))
    assert host.incomplete == ()
    assert [use.taken_bytes for use in host.memory_use] == [700 * 4096, -300 * 4096]


class TestMerging:
    def test_many_hosts_in_one_folder(self, tmp_path: Path) -> None:
        fleet = tmp_path / "fleet"
        capture(fleet, [interval(1, ops=[op(1)])])
        capture(fleet, [interval(1, ops=[op(2)])], host="client", boot_id="b" * 36)
        hosts = read_captures([fleet])
        assert [(h.host, [o.op_id for o in h.operations]) for h in hosts] == [
            ("client", [2]),
            ("server", [1]),
        ]

    def test_a_folder_of_captures_and_several_paths(self, tmp_path: Path) -> None:
        capture(tmp_path / "x" / "one", [interval(1, ops=[op(1)])])
        capture(tmp_path / "x" / "two", [interval(1)], host="client", boot_id="b")
        capture(tmp_path / "three", [interval(1)], host="other", boot_id="c")
        hosts = read_captures([str(tmp_path / "x"), tmp_path / "three"])
        assert [host.host for host in hosts] == ["client", "other", "server"]

    def test_a_copy_counts_once(self, path: Path, tmp_path: Path) -> None:
        shutil.copytree(path, tmp_path / "copy")
        host = only(tmp_path)
        assert host.latency[0].counts == {50: 3}
        assert read_captures([path, path])[0].latency[0].counts == {50: 3}

    def test_what_is_in_journal_and_parquet_counts_once(self, tmp_path: Path) -> None:
        """As after a crash between the sealing and the clearing of the journal."""
        live = tmp_path / "live"
        frames = [json_frame(wire.HELLO, hello()), *definitions(), *interval(1, ops=[op(1)])]
        frames += interval(2, latencies=[latency(50, 3)])
        copies: list[Path] = []

        def chunks() -> Any:
            yield from stream(frames)
            copies.append(Path(shutil.copytree(live / ".journal", tmp_path / "kept")))

        write(chunks(), Settings(live, 1 << 30), tmp_path / "no-proc", print)
        shutil.copytree(copies[0], live / ".journal", dirs_exist_ok=True)
        host = only(live)
        assert [o.op_id for o in host.operations] == [1]
        assert host.latency[0].counts == {50: 3}

    def test_two_recordings_of_one_boot(self, tmp_path: Path) -> None:
        path = tmp_path / "capture"
        for begin in (1000, 2000):
            flying = op_in_flight(1, begin_ns=begin * S, arrival_ns=0, off_ns=begin * S, off_kind=1)
            capture(
                path,
                [
                    interval(begin - 1000 + 1, ops=[flying], losses={"ring_full": 1}),
                    interval(begin - 1000 + 2, ops=[flying], latencies=[latency(50, 1)]),
                ],
                mono_ns=begin * S,
                wall_ns=hello()["wall_ns"] + (begin - 1000) * S,
            )
        host = only(path)
        assert [o.begin_mono_us for o in host.operations] == [1_000_000_000, 2_000_000_000]
        assert len({o.op_id for o in host.operations}) == 2
        assert [len(o.waits) for o in host.operations] == [1, 1]
        assert host.losses == {"ring_full": 2}
        assert host.latency[0].counts == {50: 2}
        assert (host.end - host.start).total_seconds() == 1002

    def test_the_last_row_of_an_operation_is_valid(self, tmp_path: Path) -> None:
        def seen(number: int) -> list[Any]:
            flying = op_in_flight(1, off_ns=1000 * S, off_stack=7, off_kind=1)
            return interval(number, ops=[flying])

        path = capture(tmp_path / "capture", [seen(3), seen(4), seen(5)])
        (operation,) = only(path).operations
        assert operation.end_mono_us == 1_005_000_000
        assert [w.total_us for w in operation.waits] == [5_000_000]

    def test_what_processes_of_a_client_wrote_and_read_by_interval(self, tmp_path: Path) -> None:
        def rpcs(op: int, *moved: int, **fields: Any) -> list[bytes]:
            key = {"op": op, "side": SIDE_CLIENT, "proc": proc(402, 31)} | fields
            return [latency(100 + at, moved=one, **key) for at, one in enumerate(moved)]

        writes, opens, reads = (0xFFFF0002, 0xFFFF0003, 0xFFFF0004)
        frames = [
            *(*rpcs(writes, 4096, 500), *rpcs(opens, 90), *rpcs(reads, 70, proc=proc(0, 0))),
            *rpcs(writes, 9, side=SIDE_SERVER),
        ]
        path = capture(tmp_path / "capture", [interval(1, latencies=frames)])
        rows = {(row.process, row.peer, row.write, row.moved_bytes) for row in only(path).transfers}
        who = ProcessKey(402, 31_000_000)
        assert rows == {(who, "10.9.0.2", True, 4596), (None, "10.9.0.2", False, 70)}

    def test_commits_that_processes_asked_for_by_interval(self, tmp_path: Path) -> None:
        def fsyncs(*counts: int, **fields: Any) -> list[bytes]:
            key = {"op": vfs_number("fsync"), "layer": VFS, "proc": proc(402, 31)} | fields
            return [latency(100 + at, count, **key) for at, count in enumerate(counts)]

        nfsd = fsyncs(7, proc=proc(0, 0))
        of_client = fsyncs(7, side=SIDE_CLIENT)
        reads = fsyncs(7, op=vfs_number("read"))
        path = capture(
            tmp_path / "capture",
            [
                interval(1, latencies=[*fsyncs(3, 2), *nfsd, *of_client, *reads]),
                interval(4, latencies=fsyncs(4)),
            ],
        )
        syncs = [
            (row.process, row.begin_mono_us, row.end_mono_us, row.count) for row in only(path).syncs
        ]
        who = ProcessKey(402, 31_000_000)
        # A late interval is taken for two.
        assert sorted(syncs, key=lambda row: row[1]) == [
            (who, 999 * S // 1000, 1001 * S // 1000, 5),
            (who, 1002 * S // 1000, 1004 * S // 1000, 4),
        ]

    def test_what_was_seen_at_all_and_of_an_rpc_that_was_sent_again(self, tmp_path: Path) -> None:
        again = rpc(100, before=-10008)
        path = capture(tmp_path / "capture", [interval(1, rpcs=[again], latencies=[latency()])])
        (operation,) = only(path).operations
        assert operation.status_before == -10008
        (seen,) = only(path).recorded
        assert (seen.side, seen.peer, seen.comm) == ("server", "10.9.0.2", None)

    def test_starts_known_to_10_ms_are_the_exact_ones_where_these_are_known(
        self, tmp_path: Path
    ) -> None:
        exact, rounded = proc(402, 31.123456), proc(402, 31.12)
        mark = {"pid": 402, "start_ns": rounded.start_ns, "group": 5, "marks": "m", "blocked": 3}
        path = capture(
            tmp_path / "capture",
            [
                interval(1, json_frame(wire.MARKS, [mark])),
                interval(
                    2,
                    (wire.PROCS, noted_process(exact, b"agent", b"agent")),
                    ops=[op(1, waits=[wait(1001, 1002, waker=exact)])],
                ),
            ],
        )
        host = only(path)
        assert host.listeners[0].process == ProcessKey(402, 31_123_456)
        assert host.listeners[0].blocked == 3
        assert host.processes[ProcessKey(402, 31_123_456)].comm == "agent"
        assert [key.pid for key in host.processes].count(402) == 1

    def test_hosts_answer_for_their_own_files_only(self, tmp_path: Path) -> None:
        fleet = tmp_path / "fleet"
        capture(fleet, [interval(1, latencies=[latency()])])
        capture(fleet, [interval(1, latencies=[latency()])], host="client", boot_id="b" * 36)
        (bad,) = fleet.glob("latency/*/host=client/*")
        bad.write_bytes(b"")
        incomplete = {host.host: len(host.incomplete) for host in read_captures([fleet])}
        assert incomplete == {"client": 1, "server": 0}


def test_any_engine_reads_it(path: Path) -> None:
    """As Spark, Trino, DuckDB do: from the folder, with the host out of the path."""
    import pyarrow.dataset as ds

    dataset = ds.dataset(path / "latency", partitioning="hive", exclude_invalid_files=False)
    (row,) = dataset.to_table().to_pylist()
    assert (row["host"], row["dt"], row["count"]) == ("server", "2026-11-22", 3)
    schema = pq.ParquetFile(sealed(path, "latency")).schema
    kinds = {(schema.column(i).physical_type) for i in range(len(schema.names))}
    assert kinds == {"INT64", "BYTE_ARRAY"}
    group = pq.ParquetFile(sealed(path, "latency")).metadata.row_group(0)
    for index, name in enumerate(schema.names):
        column = group.column(index)
        text = schema.column(index).physical_type == "BYTE_ARRAY"
        assert column.compression == "ZSTD"
        assert any("DICT" in e for e in column.encodings) == text, name


def test_reading_needs_no_bcc_and_help_needs_no_pyarrow() -> None:
    code = "import sys, tracer.reader; assert not {'pyarrow', 'bcc', 'psutil'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_million_rows_of_latency_add_up(tmp_path: Path) -> None:
    path = capture(tmp_path / "capture", [interval(1, latencies=[latency(b) for b in range(900)])])
    rewrite(sealed(path, "latency"), lambda t: pa.concat_tables([t] * 1112).combine_chunks())
    host = only(path)
    assert sum(host.latency[0].counts.values()) == 900 * 1112
    assert host.latency[0].sum_us == 900 * 1112 * MS // 1000
