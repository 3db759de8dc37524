"""A small closed-loop driving world, its renderer, and the bundled model trained on it."""
