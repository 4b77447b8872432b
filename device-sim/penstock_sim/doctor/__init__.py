"""Watches a real device's traffic and names what it does wrong.

Each rule is a small state machine over what was seen, without I/O; `examination` composes them, `listen` hears the
broker, `view` shows the report. Times come in: `at` in seconds of the monotonic clock, `wall_ms` in epoch milliseconds.
"""
