"""What a scenario asks of a site: its streams, the routes that take them, and when each frame is meant to be sent.

Arrivals are those of a run: the same schedules from the same seeds. Pure but for reading the gateway's configuration.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock_gateway.config import Config, load
from penstock_gateway.topics import device_topic
from penstock_models.errors import UsageError
from penstock_sim.load.schedule import Owners, Schedule, Times, merge
from penstock_sim.scenario.arrivals import schedule_of
from penstock_sim.scenario.load import Bent, Load
from penstock_sim.scenario.things import Bytes, Images, Scene, Video
from penstock_sim.scenario.tree import Devices, Loaded, Stream

DEFAULT_BYTES = 60_000
"""A camera's frame, where its source is not looked at: a 640×480 JPEG of quality 85."""


class Route(msgspec.Struct, frozen=True):
    """A route of the gateway. `queue` frames may wait on an `every` route; deadlines in seconds from the arrival."""

    name: str
    model: str
    mode: Literal["latest", "every"]
    deadline_s: float
    queue: int = 10_000
    on_full: str = "wait"


class Sending(msgspec.Struct, frozen=True):
    """One stream of one device: the number of its route, and the least of the route's deadline and its own.

    `late_s` is what counts as late to the device, from the moment at which it meant to send.
    """

    mix: str
    device: int
    route: int
    deadline_s: float
    late_s: float
    nbytes: int


class Work(msgspec.Struct, frozen=True):
    """All frames of a scenario: `times` (s, ascending) and beside each the number of its stream in `streams`."""

    routes: tuple[Route, ...]
    streams: tuple[Sending, ...]
    times: Times
    owners: Owners
    seconds: float
    threads: int = 0
    """The gateway's inference threads where its configuration says so; 0: the device's."""


def work_of(loaded: Loaded, seed: int = 0, frames: int = 0) -> Work:
    """The work of a scenario on the gateway that it names.

    Args:
        seed: added to the scenario's.
        frames: at most about so many: the scenario is played as much faster through its phases; 0 for all.

    Raises:
        UsageError: the gateway's configuration, or a stream that no route takes.
    """
    config = gateway_config(loaded)
    used: dict[int, int] = {}
    curve = _shortened(loaded, frames)
    schedules: list[Schedule] = []
    streams: list[Sending] = []
    for index, mix in enumerate(loaded.scenario.device):
        for place, stream in enumerate(mix.stream):
            route = _route_of(config, loaded, mix, stream)
            number = used.setdefault(route, len(used))
            deadline_s = config.route[route].deadline_ms / 1e3
            late_s = min(deadline_s, stream.deadline_ms / 1e3) if stream.deadline_ms else deadline_s
            schedules.append(
                Bent(schedule_of(stream, mix.count, (loaded.scenario.seed + seed, index, place)), curve)
            )
            streams += [
                Sending(mix.name, n, number, late_s, late_s, _nbytes(stream)) for n in range(mix.count)
            ]
    times, owners = merge(schedules, curve.seconds)
    routes = tuple(_route(config, number) for number in used)
    threads = 0 if config.origins["threads"] == "default" else config.threads
    return Work(routes, tuple(streams), times, owners, curve.seconds, threads)


def gateway_config(loaded: Loaded) -> Config:
    """The configuration of the scenario's gateway, else the demo's. Its models need not be on this machine.

    Raises:
        UsageError: it cannot be read.
    """
    named = loaded.scenario.target.gateway
    with resources.as_file(resources.files("penstock_sim") / "samples" / "demo.toml") as demo:
        path = loaded.folder / named if named else Path(demo)
        return load(path, {"PENSTOCK_MODELS__PATH": str(path.parent)})


def _shortened(loaded: Loaded, frames: int) -> Load:
    """The load, played faster where it would be too many frames. What queues do happens within milliseconds to seconds,
    and a day's curve is as flat to them in ten minutes."""
    expected = loaded.rate_hz * loaded.load.tau(loaded.load.seconds)
    if not frames or expected <= frames:
        return loaded.load
    times, values = loaded.load.points
    return Load((times * (frames / expected)).tolist(), values.tolist())


def _route_of(config: Config, loaded: Loaded, mix: Devices, stream: Stream) -> int:
    target = loaded.scenario.target
    kind = "frame" if _is_picture(stream.source) else "data"
    topic = device_topic(target.root, target.site, f"{mix.name}-0000", stream.name, kind)
    for route in config.route:
        if route.filter.match(topic) is not None:
            if route.chain:
                raise UsageError(
                    f"{config.origins[f'route[{route.index}].chain']}: expected a route without a chain, came"
                    f" {list(route.chain)}: how many parts a frame has is not known beforehand"
                )
            return route.index
    raise UsageError(
        f"expected a route of {config.file} that takes {topic} (mix {mix.name}, stream {stream.name}), came none"
    )


def _route(config: Config, number: int) -> Route:
    route = config.route[number]
    return Route(
        route.topic, route.model.name, route.mode, route.deadline_ms / 1e3, route.queue, route.on_full
    )


def _is_picture(source: Any) -> bool:
    if isinstance(source, Bytes):
        return source.media_type.startswith("image/") or not source.media_type
    return isinstance(source, (Scene, Video, Images))


def _nbytes(stream: Stream) -> int:
    """About how large a frame is; of cameras by the size of their picture."""
    source = stream.source
    if isinstance(source, Scene):
        return source.width * source.height // 5
    return source.size if isinstance(source, Bytes) else DEFAULT_BYTES if _is_picture(source) else 2048
