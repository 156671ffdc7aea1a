"""Whose request goes next where tenants share a device or a node's processors."""
