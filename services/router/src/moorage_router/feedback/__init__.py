"""Labels that come back, on their way to the registry, and what was answered, kept to compare them with."""
