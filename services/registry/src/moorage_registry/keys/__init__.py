"""API keys: minted, listed, revoked, verified."""
