"""Reports: an analysis in, text or JSON out. Nothing here reads captures or files."""
