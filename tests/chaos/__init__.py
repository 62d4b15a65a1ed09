"""Whole runs whose processes are killed on purpose; `make chaos`."""
