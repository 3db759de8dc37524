"""What drives: one directory with the base model, the versions made from it, and which of them is current. Needs POSIX."""
