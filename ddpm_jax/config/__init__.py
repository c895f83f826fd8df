"""Configs: every field with its default, what values must be, files, choices by name."""
