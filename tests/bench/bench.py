"""``make bench``: what tracing costs NFS, in a guest in which time is a count of instructions.

Writes results.json and table.md. BENCH, MODES, PROBES and STEADY choose a part, in a minute or two:

    make bench BENCH="getattr read" MODES= STEADY=
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import table

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "vagrant"))

from lablib import channel, kernels, lab, play, tools  # noqa: E402

# Of the peers alone: nfsblame takes none of them.
PACKAGES = ["bpfcc-tools", "bpftrace", "linux-headers-cloud-amd64"]
# A guest's second takes its host five, and fifty when that has much else to do.
lab.BOOT_SECONDS = channel.SILENCE_SECONDS = 900.0
PYTHON = "/opt/nfsblame/bin/python"
NFSBLAME = ["nfsblame-server", "nfsblame-client", "nfsblame-both"]
PEERS = ["nfsslower+nfsdist", "offcputime", "offwaketime", "bpftrace"]
# As many as take some tenths of a second.
OPERATIONS = {"getattr": 6000, "read": 6000, "fsync": 3000, "create": 1000, "redis": 2500}


def measured(name: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of the guest, one after the other."""
    wants_peers = set(request["modes"]) & set(PEERS)
    config = lab.Config(
        kernels.choose(None).name,
        request["vers"],
        roles=["server"],
        packages={"server": PACKAGES} if wants_peers else {},
        scenario=str(Path(__file__)),
        owner=os.getpid(),
    )
    said = bytearray()

    def hear(output: bytes) -> None:
        os.write(2, output)
        said.extend(output)

    with lab.fresh(name, config, keep=False) as booted:
        guest = booted.guest("server")
        argv = [PYTHON, f"{play.FOLDER}/guest.py", json.dumps(request)]
        command = guest.spawn(argv, hear, lambda words: os.write(2, words), cwd=play.FOLDER)
        if status := guest.wait(command):
            sys.exit(f"the guest's half ended with {status}")
    return [json.loads(line) for line in said.decode().splitlines()]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default=" ".join(OPERATIONS), help="some of: %(default)s")
    parser.add_argument(
        "--modes", default=" ".join([*NFSBLAME, *PEERS]), help="some of: %(default)s"
    )
    parser.add_argument("--probes", default="nfsblame-both", help="modes to take apart")
    parser.add_argument(
        "--steady",
        default="getattr:100 getattr:1000 fork:100",
        help="loads at a rate, for the tracer's own CPU and the capture's growth (%(default)s)",
    )
    parser.add_argument("--blocks", type=int, default=2, help="in ABBA order each (%(default)s)")
    parser.add_argument("--vers", default="4.2", help="NFS version (%(default)s)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/bench")
    options = parser.parse_args()
    os.environ["NFSBLAME_LAB_ACCEL"] = "icount"
    results = measured(
        f"bench-{os.getpid()}",
        {
            "workloads": {name: OPERATIONS[name] for name in options.workloads.split()},
            "modes": options.modes.split(),
            "probes": options.probes.split(),
            "steady": [
                (workload, int(rate))
                for workload, _, rate in (word.partition(":") for word in options.steady.split())
            ],
            "blocks": options.blocks,
            "vers": options.vers,
        },
    )
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table.page(results)
    (options.output / "table.md").write_text(text)
    tools.say(f"written to {options.output}")
    print(text)


if __name__ == "__main__":
    main()
