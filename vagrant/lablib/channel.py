"""The control channel: commands in a guest over virtio-serial, beside network and filesystems.

Frames, both ways: magic (8 bytes), session (4 bytes), kind (1 byte), length (4 bytes), payload.
Host to guest: R run (JSON: argv, cwd), K signal (JSON: signal, group).
Guest to host: O output, E error output, H still here, X exit (JSON: status; negative: signal).
guest/agent.py is the other end.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import IO, Any

from lablib.errors import LabError, LostGuest

PORTS = 16
MAGIC = b"nfsblame"
HEADER = struct.Struct("!8s4scI")
# The agent is heard every 5 s; TCG on a busy host may make that many times longer.
SILENCE_SECONDS = 90.0

Sink = Callable[[bytes], object]


class Command:
    """A command running in a guest. Its output goes to the sinks, from a thread."""

    def __init__(
        self, guest_folder: Path, argv: Sequence[str], stdout: Sink, stderr: Sink, *, cwd: str
    ) -> None:
        self._sinks: dict[bytes, Sink] = {b"O": stdout, b"E": stderr}
        self._status: int | None = None
        self._lost = ""
        self._session = secrets.token_bytes(4)
        self._lock, self._socket = connect(guest_folder)
        self._ended = threading.Event()
        self._send(b"R", {"argv": list(argv), "cwd": cwd})
        threading.Thread(target=self._listen, daemon=True).start()

    def running(self) -> bool:
        """Whether the command still runs, as far as the host knows."""
        return not self._ended.is_set()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit status (negative: the signal it died of), or None if it still runs."""
        if not self._ended.wait(seconds):
            return None
        if self._status is None:
            raise LostGuest(self._lost)
        return self._status

    def signal(self, number: int, group: bool = False) -> None:
        """Sends a signal to the command, or to its whole process group."""
        if self.running():
            self._send(b"K", {"signal": int(number), "group": group})

    def end(self, patience: float = 3.0) -> None:
        """Ends the command and its group, first politely; what hangs in the kernel is left."""
        self.signal(SIGTERM, group=True)
        if not self._ended.wait(patience):
            self.signal(SIGKILL, group=True)
            self._ended.wait(patience)
        self.close()

    def close(self) -> None:
        """Leaves the port; the agent kills what still runs on it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, kind: bytes, request: dict[str, Any]) -> None:
        payload = json.dumps(request).encode()
        # A guest that is gone is found out by the listening thread.
        with contextlib.suppress(OSError):
            self._socket.sendall(HEADER.pack(MAGIC, self._session, kind, len(payload)) + payload)

    def _listen(self) -> None:
        try:
            for kind, payload in frames(self._socket, self._session):
                if kind == b"X":
                    self._status = json.loads(payload)
                    break
                if sink := self._sinks.get(kind):
                    sink(payload)
            else:
                self._lost = "its QEMU has ended"
        except TimeoutError:
            self._lost = f"its agent has been silent for {SILENCE_SECONDS:.0f} s"
        except OSError as error:
            self._lost = f"its QEMU has gone away: {error.strerror}"
        finally:
            self._socket.close()
            self._lock.close()
            self._ended.set()


def connect(guest_folder: Path) -> tuple[IO[str], socket.socket]:
    """A free port of the guest, locked against other labs' commands."""
    for number in range(PORTS):
        lock = (guest_folder / f"port{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock, dial(guest_folder, f"port{number}")
        except BlockingIOError:
            lock.close()
        except OSError as error:
            lock.close()
            raise LostGuest(f"its QEMU does not answer: {error.strerror}") from error
    raise LabError(f"all {PORTS} control ports of {guest_folder.name} are in use; end a command")


def dial(folder: Path, name: str) -> socket.socket:
    """Connects to a Unix socket; through the folder, for a full path may be too long."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        link.settimeout(SILENCE_SECONDS)
        link.connect(f"/proc/self/fd/{descriptor}/{name}")
    except OSError:
        link.close()
        raise
    finally:
        os.close(descriptor)
    return link


def frames(link: socket.socket, session: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The session's frames; what an earlier session left in the pipe is skipped."""
    inbox = bytearray()
    while data := link.recv(1 << 16):
        inbox += data
        while (start := inbox.find(MAGIC + session)) >= 0 and len(inbox) >= start + HEADER.size:
            _, _, kind, length = HEADER.unpack_from(inbox, start)
            end = start + HEADER.size + length
            if len(inbox) < end:
                break
            payload = bytes(inbox[start + HEADER.size : end])
            del inbox[:end]
            yield kind, payload
