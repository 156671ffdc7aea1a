"""The one-machine launcher behind `moorage up`."""
