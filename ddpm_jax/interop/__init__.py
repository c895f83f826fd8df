"""Weights to and from other libraries."""
