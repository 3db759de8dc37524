"""Commands of the `owled` command line, one module per room; each has `register(app)`."""
