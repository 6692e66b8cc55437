"""Where things are: the repository, the cache, the running labs."""

import os
from pathlib import Path

VAGRANT = Path(__file__).resolve().parent.parent
REPOSITORY = VAGRANT.parent
GUEST_FILES = VAGRANT / "guest"
SCENARIOS = VAGRANT / "scenarios"
PROVISION = VAGRANT / "provision.sh"


def cache() -> Path:
    """The folder of everything the lab makes; it may be deleted while no lab is up."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nfsblame-lab"


def labs() -> Path:
    """The folder with one folder per running lab."""
    return cache() / "labs"


def settings() -> dict[str, str]:
    """The addresses and paths of lab.env, which Vagrant reads as well."""
    lines = (VAGRANT / "lab.env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}
