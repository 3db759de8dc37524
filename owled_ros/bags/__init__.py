"""Recorded bags as time-aligned frames."""
