"""The lab: NFS guests under QEMU, and scenarios played in them."""
