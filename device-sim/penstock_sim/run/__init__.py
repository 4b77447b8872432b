"""A run of a scenario: worker processes, the site, faults at their times, the books at the end."""
