"""From wire frames to rows of the tables. Pure: no file is opened in here."""
