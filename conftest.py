"""Fixtures of all tests: real servers (see moorage_common.testing)."""

pytest_plugins = ["moorage_common.testing.fixtures"]
