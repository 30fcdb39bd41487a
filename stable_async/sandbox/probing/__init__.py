"""Comparison of the facts with an API: the claims, the probes, and the findings."""
