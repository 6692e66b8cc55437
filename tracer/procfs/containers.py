"""Which container, pod and volume a path speaks of. Pure: paths in, names out.

Paths of control groups may be chosen by whoever may make control groups, names
in the kubelet's folders by nobody but it. What does not look exactly like the
runtimes' own paths is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_UID: Final = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME: Final = rf"(?=.{{1,253}}(?:[_/]|$)){_LABEL}(?:\.{_LABEL})*"

# Docker, containerd, CRI-O, podman; with systemd (docker-ID.scope) and without (docker/ID).
# conmon is podman's and CRI-O's monitor outside of the container.
_CONTAINER: Final = re.compile(r"(?:^|[/:-])(?<!conmon-)([0-9a-f]{64})(?:\.scope)?(?=/|\Z)")
# With systemd kubepods-burstable-podUID.slice, where - in the uid is _; without, kubepods/podUID.
# A pod whose uid is a plain hash comes from a manifest on the node.
_POD: Final = re.compile(
    rf"(?:/|\A)(?:[a-z-]*kubepods(?:-besteffort|-burstable)?-pod({_UID})\.slice(?=[/:]|\Z)"
    rf"|kubepods/(?:besteffort/|burstable/)?pod({_UID})(?=/|\Z))"
)
# Users may make control groups of any name in here.
_USERS: Final = "/user.slice/"

_LOG_FOLDER: Final = re.compile(rf"({_LABEL})_({_NAME})_({_UID})")
_LOG_LINK: Final = re.compile(rf"({_NAME})_({_LABEL})_{_LABEL}-([0-9a-f]{{64}})\.log")

_VOLUME: Final = re.compile(
    rf"/kubelet/pods/({_UID})/"
    rf"(?:volumes/kubernetes\.io~(?:nfs|csi)/({_NAME})(?:/mount)?"
    rf"|volume-subpaths/({_NAME})/[^/]+/\d+)\Z"
)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod by its names in Kubernetes."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the kubelet mounts it for one pod: the PersistentVolume's name, or the pod's."""

    pod_uid: str
    name: str


def container_id(cgroup: str | None) -> str | None:
    """Return the container's id, 64 hexadecimal digits, from a cgroup path; None if none.

    Of containers in containers it is the innermost, but one in a pod is the pod's own:
    what runs in it may make control groups below.
    """
    path = cgroup or ""
    pod = None if path.startswith(_USERS) else _POD.search(path)
    if pod:
        found = _CONTAINER.search(path, pod.end())
        return found[1] if found else None
    ids = _CONTAINER.findall(path)
    return str(ids[-1]) if ids else None


def pod_uid(cgroup: str | None) -> str | None:
    """Return the uid of the pod that a cgroup path belongs to, with dashes; None if none."""
    path = cgroup or ""
    found = None if path.startswith(_USERS) else _POD.search(path)
    return (found[1] or found[2]).replace("_", "-") if found else None


def pod_of_log_folder(name: str) -> tuple[str, Pod] | None:
    """Return (uid, pod) of a folder in /var/log/pods: ``default_redis-0_UID``."""
    found = _LOG_FOLDER.fullmatch(name)
    return (found[3].replace("_", "-"), Pod(found[1], found[2])) if found else None


def pod_of_log_link(name: str) -> tuple[str, Pod] | None:
    """Return (container id, pod) by a name in var/log/containers: ``POD_NAMESPACE_NAME-ID.log``."""
    found = _LOG_LINK.fullmatch(name)
    return (found[3], Pod(found[2], found[1])) if found else None


def volume_of_mount(point: str) -> Volume | None:
    """Return the volume that the kubelet mounts at this place, None if it is no such place."""
    found = _VOLUME.search(point)
    return Volume(found[1].replace("_", "-"), found[2] or found[3]) if found else None
