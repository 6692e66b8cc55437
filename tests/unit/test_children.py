"""The compiler and writer children, played by scripts."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer import children, compiler
from tracer.children import END_SIGNALS, Compiler, Writer
from tracer.errors import Exit, NfsblameError

Play = Callable[[str], None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return a function that sets what the children run; ``sock`` is the compiler's socket."""

    def play(code: str) -> None:
        script = tmp_path / "child"
        script.write_text(
            f"#!{os.path.realpath(sys.executable)} -IS\n"
            "import json, os, socket, sys, time\n"
            "if sys.argv[2] == 'tracer.compiler':\n"
            "    sock = socket.socket(fileno=int(sys.argv[3]))\n" + textwrap.dedent(code)
        )
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return play


REPLY = """
request = json.loads(sock.recv(4096))
status = open("/proc/self/status").read()
blocked = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
sock.sendall(json.dumps({
    "maps": ["a", "b"],
    "programs": [{"program": s} for s in request["sides"]],
    "missing": [],
    "layout": {"blocked": int(blocked, 16)},
}).encode() + b"\\n")
for name in ("a", "b", *request["sides"]):
    read, write = os.pipe()
    os.write(write, name.encode())
    os.close(write)
    socket.send_fds(sock, [b"F"], [read])
"""


def gone(compiling: Compiler) -> bool:
    return compiling.process.returncode is not None


def test_fds_come_in_the_order_of_the_reply(play: Play) -> None:
    play(REPLY)
    compiling = Compiler(["server", "client"])
    loaded = compiling.result()
    assert {name: os.read(fd, 9) for name, fd in loaded.maps.items()} == {"a": b"a", "b": b"b"}
    programs = [(described["program"], os.read(fd, 9)) for described, fd in loaded.programs]
    assert programs == [("server", b"server"), ("client", b"client")]
    assert gone(compiling)
    for fd in (*loaded.maps.values(), *(fd for _, fd in loaded.programs)):
        os.close(fd)


def test_signals_to_the_whole_group_do_not_reach_children_that_begin(play: Play) -> None:
    play(REPLY)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    blocked = Compiler([]).result().layout["blocked"]
    assert all(blocked & 1 << (number - 1) for number in END_SIGNALS)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("error_code", [3, 4])
def test_a_refusal_is_the_childs(play: Play, error_code: int) -> None:
    play(f"""sock.sendall(b'{{"error": "no BTF; use another", "exit": {error_code}}}\\n')""")
    compiling = Compiler(["server"])
    with pytest.raises(NfsblameError, match="no BTF; use another") as caught:
        compiling.result()
    assert caught.value.exit_code == error_code
    assert gone(compiling)


@pytest.mark.parametrize("code", ["sys.exit(7)", """sock.sendall(b'{"maps": ['); sys.exit(7)"""])
def test_a_child_that_dies_is_said_with_its_status(play: Play, code: str) -> None:
    play(code)
    compiling = Compiler(["server"])
    with pytest.raises(NfsblameError, match="status 7") as caught:
        compiling.result()
    assert caught.value.exit_code == Exit.KERNEL


def test_a_child_that_dies_among_the_fds(play: Play) -> None:
    reply = b'{"maps": ["a"], "programs": [], "missing": [], "layout": {}}\n'
    play(f"sock.sendall({reply!r})")
    with pytest.raises(NfsblameError, match="before it passed all fds"):
        Compiler(["server"]).result()


@pytest.mark.parametrize("method", ["wait", "result"])
def test_a_child_that_never_answers_is_ended(
    play: Play, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(children, "_COMPILE_TIMEOUT_S", 0.1)
    play("time.sleep(60)")
    compiling = Compiler(["server"])
    never, other = os.pipe()
    with pytest.raises(NfsblameError, match="out of memory or CPU"):
        compiling.wait(never) if method == "wait" else compiling.result()
    assert gone(compiling)
    os.close(never)
    os.close(other)


def test_waiting_for_the_answer_ends_with_a_signal(play: Play) -> None:
    play("time.sleep(60)")
    compiling = Compiler(["server"])
    stop, stopper = os.pipe()
    timer = threading.Timer(0.05, os.write, (stopper, b"!"))
    timer.start()
    began = time.monotonic()
    assert not compiling.wait(stop)
    assert time.monotonic() - began < 5
    assert gone(compiling)
    timer.join()
    os.close(stop)
    os.close(stopper)


def test_the_writer_gets_the_pipe_and_the_options(play: Play, tmp_path: Path) -> None:
    play(
        """
        output = sys.argv[3].removeprefix("--output=")
        open(output, "w").write(" ".join(sys.argv[4:]) + " " + sys.stdin.read())
        """
    )
    writer = Writer(tmp_path / "-capture", 1 << 30)
    os.write(writer.fd, b"frames")
    os.close(writer.fd)
    assert writer.process.wait(10) == 0
    assert (tmp_path / "-capture").read_text() == f"--max-size={1 << 30} frames"


def test_a_kernel_that_refuses_maps_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_specs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    class Compiled:
        maps: dict[str, object] = {}  # noqa: RUF012

    monkeypatch.setattr(compiler, "kernel_types", lambda: None)
    monkeypatch.setattr(compiler, "_prepare", lambda *_: (Compiled, None, {}))
    monkeypatch.setattr(compiler.objects, "create_maps", refuse)
    monkeypatch.setattr(compiler.resource, "setrlimit", lambda *_: None)
    with pytest.raises(NfsblameError, match="CAP_BPF") as caught:
        compiler.compile_and_load(["server"])
    assert caught.value.exit_code == Exit.PRIVILEGE
