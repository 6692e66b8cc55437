"""Names of pods, from the folders in which the kubelet keeps their logs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from tracer.procfs.aside import Aside
from tracer.procfs.containers import Pod, pod_of_log_folder, pod_of_log_link

_MOST: Final = 65536

Found = tuple[dict[str, Pod | None], dict[str, Pod | None]]
"""Pods by uid and by container id; None where two pods claim the same."""


class Pods:
    """Pods by the ids in cgroup paths; ``logs`` is /var/log, which may hang: see ``Aside``."""

    def __init__(self, logs: Path, aside: Aside) -> None:
        self._logs = logs
        self._aside = aside
        self._known: Found = ({}, {})
        self._looked = False

    def new_interval(self) -> None:
        """Let pods that were unknown so far be looked for once more."""
        self._looked = False

    def pod(self, uid: str, container: str | None) -> tuple[Pod | None, bool]:
        """Return the pod, None if unknown, and whether more may be known soon."""
        pod = self._find(uid, container)
        if pod or self._looked:
            return pod, False
        if not self._aside.ask("pods", lambda: look(self._logs)):
            return None, True
        self._known = self._aside.take("pods")
        self._looked = True
        return self._find(uid, container), False

    def _find(self, uid: str, container: str | None) -> Pod | None:
        by_uid, by_container = self._known
        return by_uid.get(uid) or by_container.get(container or "")


def look(logs: Path) -> Found:
    """Return the pods that have logs in the folders ``pods`` and ``containers``."""
    return (
        _by_id(pod_of_log_folder(name) for name in _names(logs / "pods")),
        _by_id(pod_of_log_link(name) for name in _names(logs / "containers")),
    )


def _by_id(found: Iterable[tuple[str, Pod] | None]) -> dict[str, Pod | None]:
    pods: dict[str, Pod | None] = {}
    for identity, pod in filter(None, found):
        pods[identity] = pod if pods.get(identity, pod) == pod else None
    return pods


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, _MOST)]
    except OSError:
        return []
