"""Process 1 of a guest: runs commands for the host over virtio-serial ports.

One session per port, in frames, so that output, error output and exit status stay apart and no
network or exported filesystem is needed. The frames are described in lablib/channel.py.
"""
# Importing pathlib takes TCG a third of a second, at each boot:
# ruff: noqa: PTH123, PTH208

import contextlib
import json
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

MAGIC = b"nfsblame"
HEADER = struct.Struct("!8s4scI")
CHUNK = 16384
HEARTBEAT_SECONDS = 5
# A host that leaves and another that comes are told apart by the session's number, not by the
# hang-up between them: the kernel reports it from a worker, maybe after the newcomer's command.
GONE_SECONDS = 1
# A host that reads slowly must not fill the guest's memory.
OUTBOX_LIMIT = 1 << 20


def read_environment() -> dict[str, str]:
    """What /lab/env and a login would set."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "USER": "root",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
    with open("/lab/env") as lines:
        pairs = (line.strip().partition("=") for line in lines if "=" in line and line[0] != "#")
        environment.update({name: value for name, _, value in pairs})
    return environment


class Session:
    """One command: its process, and the pipes still open to it."""

    def __init__(self, number: bytes, pid: int, pipes: dict[int, bytes]) -> None:
        self.number = number
        self.pid = pid
        self.pipes = pipes

    def signal(self, number: int, group: bool) -> None:
        """Signals the command, or its whole group."""
        # The process may be gone already; the host learns that from the exit frame.
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)


class Port:
    """One virtio-serial port and the session on it, if any."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.session: Session | None = None
        self.gone_since: float | None = None

    def hung_up(self) -> bool:
        """Whether no host is connected now."""
        poll = select.poll()
        poll.register(self.fd, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def send(self, session: Session, kind: bytes, payload: bytes = b"") -> None:
        """Queues a frame, and writes what the port takes."""
        self.outbox += HEADER.pack(MAGIC, session.number, kind, len(payload)) + payload
        self.flush()

    def flush(self) -> None:
        """Writes what the port takes now."""
        with contextlib.suppress(BlockingIOError):
            while self.outbox:
                del self.outbox[: os.write(self.fd, self.outbox[:CHUNK])]

    def frames(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Whole frames received; what a host that went away left half sent is skipped."""
        while True:
            start = self.inbox.find(MAGIC)
            if start < 0 or len(self.inbox) - start < HEADER.size:
                return
            _, number, kind, length = HEADER.unpack_from(self.inbox, start)
            end = start + HEADER.size + length
            if len(self.inbox) < end:
                return
            payload = bytes(self.inbox[start + HEADER.size : end])
            del self.inbox[:end]
            yield number, kind, payload


class Agent:
    """Everything the guest does for the host, in one loop."""

    def __init__(self) -> None:
        self.environment = read_environment()
        self.epoll = select.epoll()
        self.ports: dict[int, Port] = {}
        self.pipes: dict[int, tuple[Port, Session]] = {}
        self.children: dict[int, Port] = {}
        self.next_beat = 0.0
        self.wakeup = self.watch_children()
        for fd in open_ports():
            self.ports[fd] = Port(fd)
            # Edge-triggered: a port without a host is hung up all the time, and would spin.
            self.epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def watch_children(self) -> int:
        """A descriptor that becomes readable when a child has ended."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.epoll.register(reader, select.EPOLLIN)
        return reader

    def run(self) -> None:
        """Serves for ever: the guest ends with its QEMU."""
        while True:
            leaving = any(port.gone_since is not None for port in self.ports.values())
            for fd, events in self.epoll.poll(GONE_SECONDS if leaving else HEARTBEAT_SECONDS):
                if fd in self.ports:
                    self.serve(self.ports[fd], events)
                elif fd in self.pipes:
                    self.relay(fd)
                else:
                    self.reap()
            self.part()
            self.beat()

    def part(self) -> None:
        """Ends the sessions of hosts that have stayed away."""
        for port in self.ports.values():
            if port.gone_since is None or time.monotonic() < port.gone_since + GONE_SECONDS:
                continue
            port.gone_since = None
            if port.hung_up():
                self.hang_up(port)

    def beat(self) -> None:
        """Tells the host that a guest whose commands are silent is not lost."""
        if time.monotonic() < self.next_beat:
            return
        self.next_beat = time.monotonic() + HEARTBEAT_SECONDS
        for port in self.ports.values():
            if port.session is not None and not port.outbox:
                port.send(port.session, b"H")

    def listen(self, port: Port) -> None:
        """Reads from the port's command as long as the host keeps up."""
        if port.session is None:
            return
        wanted = select.EPOLLIN if len(port.outbox) < OUTBOX_LIMIT else 0
        for fd in port.session.pipes:
            self.epoll.modify(fd, wanted)

    def serve(self, port: Port, events: int) -> None:
        """What the host has sent, and room for what it is to get."""
        if events & select.EPOLLHUP and port.gone_since is None:
            port.gone_since = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(port.fd, CHUNK):
                port.inbox += data
        for number, kind, payload in port.frames():
            if kind == b"R":
                port.gone_since = None
                self.hang_up(port)
                self.start(port, number, json.loads(payload))
            elif kind == b"K" and port.session and port.session.number == number:
                request = json.loads(payload)
                port.session.signal(request["signal"], request["group"])
        port.flush()
        self.listen(port)

    def hang_up(self, port: Port) -> None:
        """The host has left: its command goes too, and what was meant for it."""
        if port.session is not None:
            port.session.signal(signal.SIGKILL, group=True)
            self.children.pop(port.session.pid, None)
            port.session = None
        port.outbox.clear()

    def start(self, port: Port, number: bytes, request: dict[str, Any]) -> None:
        """Starts a command with its output in pipes."""
        readers, writers = zip(os.pipe(), os.pipe(), strict=True)
        pid = os.fork()
        if pid == 0:
            execute(request, writers, self.environment)
        for fd in writers:
            os.close(fd)
        port.session = Session(number, pid, dict(zip(readers, (b"O", b"E"), strict=True)))
        self.children[pid] = port
        for fd in readers:
            os.set_blocking(fd, False)
            self.pipes[fd] = (port, port.session)
            self.epoll.register(fd, select.EPOLLIN)

    def relay(self, fd: int) -> None:
        """Passes on what a command says."""
        port, session = self.pipes[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self.forget(fd)
        elif port.session is session:
            port.send(session, session.pipes[fd], data)
            self.listen(port)
        # Otherwise a daemon that a finished command left behind: read on, or it would get SIGPIPE.

    def forget(self, fd: int) -> None:
        """Closes a pipe that nobody writes to any more."""
        _, session = self.pipes.pop(fd)
        session.pipes.pop(fd, None)
        self.epoll.unregister(fd)
        os.close(fd)

    def reap(self) -> None:
        """Takes leave of children, and of orphans as process 1 must."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wakeup, CHUNK):
                pass
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self.finish(*ended)

    def finish(self, pid: int, status: int) -> None:
        """Tells the host how its command ended, after all that the command said."""
        port = self.children.pop(pid, None)
        if port is None or port.session is None:
            return
        session = port.session
        for fd in session.pipes:
            self.drain(fd)
        port.send(session, b"X", json.dumps(os.waitstatus_to_exitcode(status)).encode())
        # Its daemons may still write; nobody reads that any more, so nothing may hold it up.
        for fd in session.pipes:
            self.epoll.modify(fd, select.EPOLLIN)
        port.session = None

    def drain(self, fd: int) -> None:
        """Passes on what is left in a pipe."""
        port, session = self.pipes[fd]
        with contextlib.suppress(BlockingIOError):
            while data := os.read(fd, CHUNK):
                port.send(session, session.pipes[fd], data)


def open_ports() -> Iterator[int]:
    """Descriptors of the control ports, the only virtio ports a guest has."""
    for name in os.listdir("/sys/class/virtio-ports"):
        yield os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK)


def execute(request: dict[str, Any], writers: Sequence[int], environment: dict[str, str]) -> None:
    """Becomes the command, as a session leader so that its group can be ended."""
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writers[0], 1)
        os.dup2(writers[1], 2)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        set_oom_score(0)
        # As systemd gives its services.
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 524288))
        os.chdir(request["cwd"])
        os.execvpe(request["argv"][0], request["argv"], environment)
    except OSError as error:
        os.write(2, f"{request['argv'][0]}: {error.strerror}\n".encode())
    os._exit(127)


def set_oom_score(score: int) -> None:
    """Whether the kernel may take this process when memory runs out."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


if __name__ == "__main__":
    set_oom_score(-1000)
    Agent().run()
