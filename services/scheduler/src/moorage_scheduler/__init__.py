"""Placement of replicas on shared GPUs; the only driver of its Ray cluster."""
