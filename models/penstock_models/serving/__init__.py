"""Serving: versions that come and go under traffic.

Joins what stands by itself: `versions` says what is wanted, `vetting` whether it may be loaded, `isolation` and `devices`
where it runs, `scheduling` when. `executor` holds the loaded versions, `loader` loads them for the manager, `targets` gives
requests to them, and `core` is all of it, made once.
"""
