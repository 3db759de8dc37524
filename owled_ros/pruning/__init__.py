"""OWLed pruning: outliers, allocation, scores, the procedure and its artifact."""
