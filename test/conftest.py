"""Settings of all tests: property tests judge results, never the speed of a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("owled", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("owled")
