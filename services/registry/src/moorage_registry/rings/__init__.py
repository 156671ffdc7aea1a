"""Rings: named groups of a tenant's callers that get a candidate first."""
