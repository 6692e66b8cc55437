"""What this kernel offers, and the system calls to use it."""
