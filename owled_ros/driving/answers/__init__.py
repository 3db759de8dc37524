"""Kinds of answer, one file each: from what a model says to a plan, and back. Needs numpy and pydantic."""
