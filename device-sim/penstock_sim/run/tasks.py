"""Tasks of a run, whose errors its user reads one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock_models.errors import PenstockError


async def run_all(works: Iterable[Any]) -> None:
    """Run all to the end; the first failure ends the others and is raised as it is."""
    with errors_as_they_are():
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)


@contextmanager
def errors_as_they_are() -> Iterator[None]:
    """The first of our own errors out of a group of tasks, in place of the group."""
    try:
        yield
    except* PenstockError as errors:
        raise next(_leaves(errors)) from None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
