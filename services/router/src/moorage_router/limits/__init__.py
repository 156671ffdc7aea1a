"""Rate limits: prepaid GCRA leases from Redis, spent from memory; a local share of the limit while Redis is away."""
