"""Where a replica goes: pure functions of the cluster's state."""
