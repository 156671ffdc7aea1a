"""Models, their immutable versions, and the artifacts they consist of."""
