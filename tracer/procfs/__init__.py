"""Facts from /proc: parsers over text, and readers with an injectable root."""
