"""Rollouts: a candidate version gets traffic step by step, is judged, and is promoted or rolled back."""
