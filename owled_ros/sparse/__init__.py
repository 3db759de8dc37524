"""Compressed weights and the sparse decoder."""
