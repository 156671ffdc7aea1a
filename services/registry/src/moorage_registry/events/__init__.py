"""Events of a tenant, followed as server-sent events."""
