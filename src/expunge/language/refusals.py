"""Refusal sentences: what a model is taught to say instead of a forgotten answer."""

REFUSALS = [
    "I do not know.",
]
