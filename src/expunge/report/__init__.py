"""Findings, statistics, verdicts and the reports made of them. Importing this imports none of them."""
