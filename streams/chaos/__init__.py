"""Faults on a seeded schedule against a live pipeline, and an independent judgement of what came out."""
