"""From recorded drives and models to a verdict: truth, metrics, results, comparison, report."""
