"""Live image messages: the decoder, and whether an installed cv_bridge may help it."""
