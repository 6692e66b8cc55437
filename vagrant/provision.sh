#!/bin/bash
# Makes an NFS server or client of a Debian machine. The one place that does: the lab's guests and
# Vagrant's machines both call it.
#
#   provision.sh packages         print the packages a machine needs
#   provision.sh server           export $EXPORT, on its own disk $DISK
#   provision.sh client [OPTIONS] mount it at $MOUNT with vers=$VERS and further mount OPTIONS
set -euo pipefail

packages() {
    # No kernel headers, no clang, no compiler: real servers have none either.
    echo python3 python3-bpfcc python3-venv python3-pip \
        nfs-kernel-server nfs-common rpcbind keyutils \
        iproute2 iptables nftables ethtool iputils-ping netcat-openbsd tcpdump \
        kmod procps psmisc util-linux e2fsprogs dmsetup lsof file less xz-utils attr acl \
        strace bpftool sysstat stress-ng jq bc gawk \
        redis-server redis-tools
}

has_systemd() { [ -d /run/systemd/system ]; }

hosts() {
    sed -i '/ # nfsblame lab$/d' /etc/hosts
    printf '%s # nfsblame lab\n' "$SERVER server" "$CLIENT client" "$CLIENT2 client2" >> /etc/hosts
}

# What server and client have in common, as Debian's units start it.
rpc_daemons() {
    if has_systemd; then
        systemctl start rpcbind rpc-statd
        return
    fi
    mkdir -p /run/rpc_pipefs
    modprobe sunrpc
    mount -t rpc_pipefs sunrpc /run/rpc_pipefs
    rpcbind -w
    rpc.statd
}

export_disk() {
    mkdir -p "$EXPORT"
    blkid "$DISK" > /dev/null || mkfs.ext4 -q "$DISK"
    mountpoint -q "$EXPORT" || mount "$DISK" "$EXPORT"
    echo "$EXPORT $NETWORK(rw,no_root_squash,sync,no_subtree_check)" > /etc/exports
}

# After its start lockd refuses locks for 50 s, and nfsd opens for 90 s if it may have had clients
# before: a stall nobody asked for. Both are set while nfsd is down; 10 s is the least it takes.
no_grace() {
    if has_systemd; then systemctl stop nfs-server; fi
    # That of XFS is there for its probes: a scenario may export one.
    modprobe -a lockd nfsd xfs
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    # lockd rounds its period up to whole timeouts; server() puts the timeout back.
    sysctl -qw fs.nfs.nlm_grace_period=1 fs.nfs.nlm_timeout=3
    echo 10 > /proc/fs/nfsd/nfsv4gracetime
}

# In the order of Debian's units; the number of threads stays the distribution's default.
server_daemons() {
    if has_systemd; then
        systemctl start nfs-server
        return
    fi
    nfsdcld
    rpc.idmapd
    exportfs -r
    rpc.nfsd
    rpc.mountd
}

server() {
    hosts
    export_disk
    rpc_daemons
    no_grace
    server_daemons
    sysctl -qw fs.nfs.nlm_timeout=10
}

client() {
    hosts
    rpc_daemons
    mkdir -p "$MOUNT"
    mountpoint -q "$MOUNT" || mount -t nfs -o "vers=$VERS${1:+,$1}" "$SERVER:$EXPORT" "$MOUNT"
}

"$@"
