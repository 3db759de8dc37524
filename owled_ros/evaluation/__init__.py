"""Metrics, offline evaluation of bags, results and reports."""
