"""Faults on request: a link that can be bad, processes that can be killed."""
