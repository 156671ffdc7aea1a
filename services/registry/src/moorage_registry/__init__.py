"""Desired state: tenants, keys, catalogue, deployments, usage ledger, audit. The only process with a database."""
