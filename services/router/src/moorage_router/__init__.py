"""The data plane: authentication, quotas, routing and the usage log."""
