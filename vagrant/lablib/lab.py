"""A lab: one server and its clients, booted together, living in one folder."""

import contextlib
import io
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lablib import accel, cached, disk, image, kernels, payload, places, qemu, tools
from lablib.errors import LabError, LostGuest, UsageError
from lablib.guest import Guest

ROLES = ("server", "client", "client2")
VERSIONS = ("3", "4.0", "4.1", "4.2")
EXPORT_MIB = 8192
# Half a minute, or a minute and a half on a busy host.
BOOT_SECONDS = 300.0
PROVISION = "/lab/provision.sh"


@dataclass(frozen=True)
class Config:
    """What a lab is made for; kept beside it, so that a guest can join later."""

    kernel: str
    vers: str
    roles: list[str] = field(default_factory=lambda: ["server", "client"])
    packages: dict[str, list[str]] = field(default_factory=dict)
    mount_options: dict[str, str] = field(default_factory=dict)
    # What the export's disk does at most.
    disk_mib_per_s: float | None = None
    memory_mib: int = qemu.MEMORY_MIB
    scenario: str = ""
    # Of a `lab run`: its process, after whose death the guests are of no use to anyone.
    owner: int = 0


class Lab:
    """A lab by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = places.labs() / name
        self.lock = places.labs() / f"{name}.lock"

    def config(self) -> Config:
        """What it was made for."""
        try:
            return Config(**json.loads((self.folder / "lab.json").read_text()))
        except FileNotFoundError:
            raise UsageError(f"lab {self.name} is not up: vagrant/lab up") from None

    def guest(self, role: str) -> Guest:
        """A guest that is up."""
        guest = Guest(self.folder / role)
        if not guest.folder.exists():
            raise UsageError(
                f"{role} is not up: vagrant/lab up {role if role == 'client2' else ''}"
            )
        if not guest.alive():
            raise guest.lost("its QEMU has ended")
        return guest

    def guests(self) -> list[Guest]:
        """All guests that were started, the server first."""
        return [Guest(self.folder / role) for role in ROLES if (self.folder / role).exists()]

    def up(self, config: Config) -> None:
        """Boots the lab to "mounted"; a lab that is up already gets what it lacks."""
        with cached.locked(self.lock):
            if any(guest.alive() for guest in self.guests()):
                self.check_same(config)
            else:
                self.prepare(config)
            missing = [role for role in config.roles if not Guest(self.folder / role).alive()]
            try:
                self.boot(missing)
            except BaseException:
                for role in missing:
                    Guest(self.folder / role).stop()
                raise

    def check_same(self, config: Config) -> None:
        """A lab that is up can grow, but not become another."""
        now = self.config()
        if (now.kernel, now.vers) != (config.kernel, config.vers):
            raise UsageError(
                f"lab {self.name} is up with kernel {now.kernel} and vers {now.vers};"
                " vagrant/lab down first, or take another --lab NAME"
            )

    def prepare(self, config: Config) -> None:
        """Makes the lab's folder, with its payload and the export's disk."""
        userland = kernels.userland(kernels.choose(config.kernel).userland)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        scenario = Path(config.scenario) if config.scenario else None
        payload.make(self.folder / "payload.ext4", config.vers, userland.python, scenario)
        disk.make_empty(self.folder / "export.ext4", EXPORT_MIB)
        (self.folder / "lab.json").write_text(json.dumps(asdict(config)))

    def boot(self, roles: list[str]) -> None:
        """Starts the guests, then the server's services, then the mounts."""
        started = time.monotonic()
        config = self.config()
        self.start_all(roles, config)
        clients = [role for role in roles if role != "server"]
        if "server" in roles:
            self.on_all(["server"], [PROVISION, "server"])
        for role in clients:
            self.on_all([role], [PROVISION, "client", config.mount_options.get(role, "")])
        if roles:
            seconds = time.monotonic() - started
            tools.say(f"{', '.join(roles)} up in {seconds:.1f} s ({self.name}, {config.kernel})")

    def start_all(self, roles: list[str], config: Config) -> None:
        """Starts the guests, once more if one is lost before it has been asked for anything.

        Emulation on a busy host does not always survive how a kernel measures its timers.
        """
        for role in roles:
            self.start(role, config)
        try:
            self.on_all(roles, ["true"])
        except LostGuest as error:
            tools.say(f"{error}\nlab: booting once more")
            for role in roles:
                Guest(self.folder / role).stop()
                self.start(role, config)
            self.on_all(roles, ["true"])

    def start(self, role: str, config: Config) -> None:
        """Starts one guest's QEMU."""
        kernel = kernels.choose(config.kernel)
        boot = kernels.boot_files(kernel)
        machine = qemu.Machine(
            role=role,
            boot=boot,
            accelerator=accel.choose(boot),
            root=image.root_disk(
                kernels.userland(kernel.userland), config.packages.get(role, []), boot.version
            ),
            payload=self.folder / "payload.ext4",
            export=self.folder / "export.ext4" if role == "server" else None,
            export_mib_per_s=config.disk_mib_per_s,
            memory_mib=config.memory_mib,
        )
        folder = self.folder / role
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        Guest(folder).start(machine)

    def on_all(self, roles: Iterable[str], argv: list[str]) -> None:
        """Runs a step of booting in several guests at once; a guest waits for it until it is up."""
        guests = [self.guest(role) for role in roles]
        words = io.BytesIO()
        steps = [(guest, guest.spawn(argv, words.write, words.write)) for guest in guests]
        for guest, step in steps:
            status = guest.wait(step, BOOT_SECONDS)
            said = words.getvalue().decode(errors="replace").strip()
            if status is None:
                late = f"{argv} did not end within {BOOT_SECONDS:.0f} s: {said}"
                raise guest.lost(f"{late}\n{guest.processes()}")
            if status:
                raise LabError(f"{guest.name}: {' '.join(argv)} failed with {status}: {said}")

    def down(self) -> None:
        """Ends the guests and forgets them."""
        for guest in self.guests():
            guest.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.unlink(missing_ok=True)


@contextlib.contextmanager
def fresh(name: str, config: Config, keep: bool) -> Iterator[Lab]:
    """A lab booted for one purpose, and gone afterwards whatever happens."""
    lab = Lab(name)
    try:
        lab.up(config)
        yield lab
    finally:
        if keep:
            tools.say(f"guests kept: vagrant/lab --lab {name} exec server -- COMMAND, and down")
        else:
            lab.down()


def clear_orphans() -> None:
    """Ends the labs whose `lab run` was killed without a chance to do so."""
    for path in places.labs().glob("*/lab.json"):
        owner = json.loads(path.read_text())["owner"]
        if owner and not Path(f"/proc/{owner}").exists():
            Lab(path.parent.name).down()
