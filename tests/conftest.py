"""Settings for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is slow, not wrong.
settings.register_profile("tidegate", deadline=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tidegate")
