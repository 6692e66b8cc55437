"""nfsblame: names the process that stalls your NFS."""

__version__ = "0.1.0"
