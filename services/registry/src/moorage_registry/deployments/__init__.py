"""Deployments, their traffic, and what is known of their replicas."""
