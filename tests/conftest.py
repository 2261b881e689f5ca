"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says something of the machine, and nothing of the program.
settings.register_profile("kes", deadline=None)
settings.load_profile("kes")
