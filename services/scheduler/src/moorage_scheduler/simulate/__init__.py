"""A cluster under a trace, in simulated time, with the placement code that the scheduler runs."""
