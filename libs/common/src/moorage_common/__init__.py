"""What every Moorage process shares: wire contracts, errors, keys, key-value discipline, settings, logs, metrics."""
