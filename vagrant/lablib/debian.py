"""How the lab calls mmdebstrap, for kernels and images alike."""

MMDEBSTRAP = (
    "mmdebstrap",
    "--quiet",
    # A mirror that lags behind, or stands still as a snapshot does, is good enough for a
    # lab. Signatures are checked all the same.
    '--aptopt=Acquire::Check-Valid-Until "false"',
)
