"""Online features of a tenant's feature services."""
