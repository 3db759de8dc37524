"""A model is tuned on the operator's own drives: what it is asked is its profile's, what is right is what the vehicle did then."""
