"""Enough file descriptors for a run's connections: its processes inherit what is set here."""

from __future__ import annotations

import resource

from penstock_models.errors import UsageError

_OTHERS = 256
"""Files, pipes and the broker's and gateway's own connections."""


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files so that each of its children may hold `count` connections.

    Raises:
        UsageError: the system does not allow so many.
    """
    wanted = count + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UsageError(
            f"expected to open {wanted} files for {count} connections, this system allows {hard}: raise the hard limit"
            " (`ulimit -Hn`, or LimitNOFILE= of the service), or use fewer devices"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
