"""Moorage's feature-proxy: a tenant's Feast feature services, read straight from the online store."""
