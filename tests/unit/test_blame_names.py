from __future__ import annotations

import pytest

from tracer.blame.catalogue import catalogue, product_of
from tracer.blame.names import process_name
from tracer.model import Process, ProcessKey

KEY = ProcessKey(7, 1)


@pytest.mark.parametrize(
    ("comm", "exe", "name"),
    [
        ("qaxsafed", "/opt/qaxsafe/qaxsafed", "qaxsafed"),
        ("thread-pool-3", "/opt/av/scand", "scand"),
        ("scand", "/opt/av/scand (deleted)", "scand"),
        ("fapolicyd", None, "fapolicyd"),
        ("fapolicyd", "", "fapolicyd"),
        ("qaxsafed", "/usr/bin/python3.11", "qaxsafed"),
        ("python3", "/usr/bin/python3.11", "python3.11"),
        ("backup.sh", "/usr/bin/bash", "backup.sh"),
        ("bash", "/bin/bash", "bash"),
        ("sh", "/bin/dash", "dash"),
        ("agent.pl", "/usr/bin/perl", "agent.pl"),
        ("node", "/usr/bin/node", "node"),
        ("elasticsearch", "/usr/lib/jvm/bin/java", "elasticsearch"),
        ("php-fpm: master", "/usr/sbin/php-fpm8.2", "php-fpm: master"),
        (None, "/usr/bin/python3", "python3"),
        (None, None, "pid 7"),
        # Not interpreters, though their names begin like one.
        ("x", "/usr/bin/nodelocaldns", "nodelocaldns"),
        ("x", "/usr/sbin/shutdownd", "shutdownd"),
        # Only a base name is known from the kernel.
        ("worker", "clamd", "clamd"),
    ],
)
def test_name_of_a_process(comm, exe, name):
    assert process_name(Process(KEY, comm=comm, exe=exe), 7) == name


def test_name_of_an_unknown_process():
    assert process_name(None, 7) == "pid 7"


@pytest.mark.parametrize(
    ("name", "exe", "product"),
    [
        ("qaxsafed", None, "QiAnXin endpoint security (qaxsafe)"),
        ("updater", "/opt/qaxsafe/bin/updater", "QiAnXin endpoint security (qaxsafe)"),
        ("clamd", "/usr/sbin/clamd", "ClamAV"),
        ("my-own-daemon", "/opt/mine/my-own-daemon", None),
    ],
)
def test_product(name, exe, product):
    assert product_of(name, exe) == product


def test_catalogue_is_sound():
    agents = catalogue()
    assert len({agent.product for agent in agents}) == len(agents) > 40
    assert all(agent.processes for agent in agents)
    assert all(path.startswith("/") for agent in agents for path in agent.paths)
