"""One file per command: options in, errors out. The work is done elsewhere."""
