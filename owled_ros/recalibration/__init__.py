"""From recorded bags to a gated artifact in a store, in a child process that gives way to driving. Needs every room below."""
