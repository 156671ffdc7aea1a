"""Push, deploy and call models on Moorage."""
