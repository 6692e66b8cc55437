"""The form of a capture on disk: journal, Parquet, footer, size bound."""
