"""Pooled hosts: one process that holds many small versions of one tenant, those lately used in memory."""
