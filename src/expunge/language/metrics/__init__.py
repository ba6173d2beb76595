"""Metrics on language models: one family, one file; pure functions over scores, and one class that measures.

Metrics of the forget side point to the gold model's value, never to 0 or 1: over-forgetting is a failure too.
"""
