"""Importance criteria: one file each, found by its name."""
