"""Paths of control groups, logs and mounts, as runtimes and the kubelet make them, and others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.procfs.containers import (
    Pod,
    Volume,
    container_id,
    pod_of_log_folder,
    pod_of_log_link,
    pod_uid,
    volume_of_mount,
)

ID = "3f5a0c" + "0123456789abcdef" * 3 + "0123456789"
OTHER = "0" * 64
UID = "8f0c2b1e-8d5e-4a55-9d3c-2d6f2c1b0a99"
SLICE_UID = UID.replace("-", "_")
STATIC = "b1946ac92492d2347c6235b4d2611184"
POD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice"
KUBELET = f"/var/lib/kubelet/pods/{UID}"


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID}",
        f"/system.slice/docker-{ID}.scope",
        f"/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{ID}.scope",
        f"/kubepods/burstable/pod{UID}/{ID}",
        f"{POD}/cri-containerd-{ID}.scope",
        f"{POD}/crio-{ID}.scope",
        f"{POD}/crio-{ID}.scope/init",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
        f"/system.slice:docker:{ID}",
        f"/docker/{OTHER}/kubepods/pod1/{ID}",
        # A container cannot pass for another by groups that it makes below its own.
        f"{POD}/cri-containerd-{ID}.scope/docker/{OTHER}",
    ],
)
def test_container_ids(path: str) -> None:
    assert container_id(path) == ID


@pytest.mark.parametrize(
    "path",
    [
        None,
        "/",
        "/system.slice/ssh.service",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods.slice/crio-conmon-{ID}.scope",
        f"/x/{ID}0",
        f"/docker/{ID.upper()}",
        f"/docker/{ID}\n",
        f"{POD}",
    ],
)
def test_no_container(path: str | None) -> None:
    assert container_id(path) is None


@pytest.mark.parametrize(
    "path",
    [
        f"{POD}/cri-containerd-{ID}.scope",
        f"{POD}/crio-{ID}.scope/init",
        POD,
        f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope",
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice",
        f"/kubepods/besteffort/pod{UID}/{ID}",
        f"/kubepods/pod{UID}/{ID}",
        # kind: the node is a container, and the kubelet has a slice of its own.
        f"/docker/{OTHER}/kubelet/kubepods/burstable/pod{UID}/{ID}",
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE_UID}.slice/x",
        # containerd told of systemd, but not the kubelet
        f"/system.slice/containerd.service/kubepods-burstable-pod{SLICE_UID}.slice:cri-containerd:{ID}",
        # A container cannot pass for another pod by groups that it makes below its own.
        f"{POD}/cri-containerd-{ID}.scope/kubepods/pod{'1' * 8}-1111-1111-1111-{'1' * 12}",
    ],
)
def test_pods(path: str) -> None:
    assert pod_uid(path) == UID


def test_static_pod() -> None:
    assert pod_uid(f"/kubepods/burstable/pod{STATIC}/{ID}") == STATIC


@pytest.mark.parametrize(
    "path",
    [
        None,
        "/",
        f"/docker/{ID}",
        f"/kubepods/pod{UID[:-1]}/{ID}",
        f"/kubepods/pod{UID}x/{ID}",
        f"/kubepods/pod{UID.upper()}/{ID}",
        f"/mykubepods/pod{UID}",
        f"/kubepods/other/pod{UID}",
        # Users may name theirs as they like.
        f"/user.slice/user-1000.slice/user@1000.service{POD}/cri-containerd-{ID}.scope",
        f"/kubepods/pod{UID}\n",
        "/kubepods/pod../../etc",
    ],
)
def test_no_pod(path: str | None) -> None:
    assert pod_uid(path) is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (f"default_redis-0_{UID}", (UID, Pod("default", "redis-0"))),
        (f"kube-system_etcd-node.example.com_{STATIC}",
         (STATIC, Pod("kube-system", "etcd-node.example.com"))),
        (f"default_redis_0_{UID}", None),
        (f"Default_redis-0_{UID}", None),
        (f"default_\x1b[31m_{UID}", None),
        (f"default_redis-0_{UID}\n", None),
        (f"default_../../x_{UID}", None),
        (f"{'a' * 64}_redis-0_{UID}", None),
        (f"default_{'a.' * 127}_{UID}", None),
        (f"default_redis-0_{UID}x", None),
        ("", None),
    ],
)  # fmt: skip
def test_log_folders(name: str, found: object) -> None:
    assert pod_of_log_folder(name) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (f"redis-0_default_redis-{ID}.log", (ID, Pod("default", "redis-0"))),
        (f"redis-0_default_my-side-car-{ID}.log", (ID, Pod("default", "redis-0"))),
        (f"redis-0_default_redis-{ID}.log.1", None),
        (f"redis-0_default_redis-{ID[:-1]}.log", None),
        (f"redis\x00_default_redis-{ID}.log", None),
    ],
)
def test_log_links(name: str, found: object) -> None:
    assert pod_of_log_link(name) == found


@pytest.mark.parametrize(
    ("point", "name"),
    [
        (f"{KUBELET}/volumes/kubernetes.io~csi/pvc-1/mount", "pvc-1"),
        (f"{KUBELET}/volumes/kubernetes.io~nfs/pv.nfs-1", "pv.nfs-1"),
        (f"/data/kubelet/pods/{UID}/volumes/kubernetes.io~nfs/data", "data"),
        (f"/var/snap/microk8s/common{KUBELET}/volumes/kubernetes.io~nfs/data", "data"),
        (f"{KUBELET}/volume-subpaths/pvc-1/redis/0", "pvc-1"),
        (f"{KUBELET}/volumes/kubernetes.io~csi/pvc-1/mount/below", None),
        (f"{KUBELET}/volumes/kubernetes.io~empty-dir/cache", None),
        (f"{KUBELET}/volumes/kubernetes.io~csi/../mount", None),
        (f"{KUBELET}/volumes/kubernetes.io~csi/pvc\n1/mount", None),
        (f"{KUBELET}/volumes/kubernetes.io~nfs/pvc-1\n", None),
        ("/mnt/nfs", None),
    ],
)
def test_volumes(point: str, name: str | None) -> None:
    assert volume_of_mount(point) == (Volume(UID, name) if name else None)


@given(
    st.text(alphabet=st.sampled_from("/_-.:~\n\0podkubescri0123456789abcdef é\x1b"), max_size=200)
)
def test_any_path_is_something_or_nothing(path: str) -> None:
    container = container_id(path)
    assert container is None or len(container) == 64
    pod_uid(path)
    pod_of_log_folder(path)
    pod_of_log_link(path)
    volume_of_mount(path)
