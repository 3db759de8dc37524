"""Settings of all tests: property tests judge results, never the speed of a busy machine; SIGINT works everywhere."""

import os
import signal

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: the cores are shared by the workers
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

settings.register_profile("owled", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("owled")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
