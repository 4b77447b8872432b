"""The load: schedules, connections, virtual devices and their books."""
