"""Clusters: what operators want of their nodes, and what their schedulers answer."""
