"""Annotation files in, records out: one file per public dataset, the record types in `records.py`."""
