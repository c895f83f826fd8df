"""Weights to and from other libraries; each needs its own extra, so import its module."""
