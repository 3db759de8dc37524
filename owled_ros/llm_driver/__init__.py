"""LLM-Driver: examples, hosts, training."""
