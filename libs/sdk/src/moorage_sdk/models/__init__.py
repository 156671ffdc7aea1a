"""Models as people have them, turned into what the platform stores: a safe format, a signature and examples."""
