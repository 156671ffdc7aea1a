"""Labels that come back, and what was answered, kept to compare them with."""
