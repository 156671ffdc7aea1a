"""People: who may do what in which tenant, and how they sign in."""
