"""From a scenario to the virtual devices of one process: sources, schedules, clocks, connections.

Device n of a mix belongs to process n mod `of`. What is random about a device does not depend on how many processes
share the work: its payloads and clock are drawn from (seed, mix, n), its times from the schedule of its whole mix.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from penstock_gateway.config.values import BrokerUrl
from penstock_gateway.mqtt import LinkOptions
from penstock_gateway.topics import device_topic
from penstock_models.errors import UsageError
from penstock_sim.load.clock import DeviceClock
from penstock_sim.load.fleet import FRESH_S, Device
from penstock_sim.load.lane import Lane, Sending
from penstock_sim.load.schedule import Schedule
from penstock_sim.load.sender import Sends
from penstock_sim.load.streams import LoadStream, VirtualStream
from penstock_sim.run.device_faults import change_of, other_rings
from penstock_sim.scenario.arrivals import schedule_of, seed_of
from penstock_sim.scenario.faults import ClockJump
from penstock_sim.scenario.load import Bent
from penstock_sim.scenario.tree import Devices, Loaded, Stream, Target
from penstock_sim.sources import Ring

VARIETY = 8
"""Different sources a stream of a mix; devices beyond share them, each beginning at another payload."""


class Part(msgspec.Struct, frozen=True):
    """Process `number` of `of`."""

    number: int = 0
    of: int = 1

    def devices(self, count: int) -> range:
        return range(self.number, count, self.of)


class Built(msgspec.Struct, frozen=True):
    """`sends` are in the numbering of `schedules`; `others` is what streams send after a change of payload type."""

    devices: tuple[Device, ...]
    sends: tuple[Sends, ...]
    schedules: tuple[Schedule, ...]
    others: Mapping[tuple[str, str], Ring]


def device_name(mix: Devices, number: int) -> str:
    return f"{mix.name}-{number:04d}"


def build(loaded: Loaded, part: Part, target: Target, run: str, sending: Sending) -> Built:
    """The part's devices. `target` has its `url`; `run` is in client ids and boots.

    Raises:
        UsageError: a source's file, a password's file.
    """
    devices: list[Device] = []
    sends: list[Sends] = []
    schedules: list[Schedule] = []
    others: dict[tuple[str, str], Ring] = {}
    logins = _logins(target, loaded.folder)
    for index, mix in enumerate(loaded.scenario.device):
        mine = part.devices(mix.count)
        if not mine:
            continue
        lanes = {number: Lane(sending, FRESH_S) for number in mine}
        streams: dict[int, list[LoadStream]] = {number: [] for number in mine}
        for place, stream in enumerate(mix.stream):
            seed = [loaded.scenario.seed, index, place]
            schedules.append(Bent(schedule_of(stream, mix.count, seed, mine), loaded.load))
            seeds = [seed_of(*seed, n) for n in range(min(VARIETY, mix.count))]
            rings = [stream.source.open(one, stream.rate_hz, loaded.folder) for one in seeds]
            later = other_rings(loaded.scenario.fault, mix.name, stream, rings, seeds, loaded.folder)
            for number in mine:
                made = _stream(loaded, mix, stream, number, rings, schedules[-1], target, run)
                streams[number].append(made)
                sends.append((made, lanes[number]))
                if later is not None:
                    others[made.stream.device, stream.name] = later[number % len(later)]
        for number in mine:
            devices.append(
                _device(mix, number, streams[number], lanes[number], target, run, loaded.folder, logins)
            )
    return Built(tuple(devices), tuple(sends), tuple(schedules), others)


def _stream(
    loaded: Loaded,
    mix: Devices,
    stream: Stream,
    number: int,
    rings: Sequence[Ring],
    schedule: Schedule,
    target: Target,
    run: str,
) -> LoadStream:
    name = device_name(mix, number)
    source = rings[number % len(rings)].turned(number // len(rings))
    kind = "frame" if source.media_type.startswith("image/") or not source.media_type else "data"
    topic = device_topic(target.root, target.site, name, stream.name, kind)
    virtual = VirtualStream(
        name,
        stream.name,
        source,
        schedule,
        mix.qos,
        topic,
        stream.deadline_ms,
        stream.priority,
        stream.expiry_s,
    )
    protocol = 5 if mix.protocol == "5" else 4
    made = LoadStream(virtual, topic, protocol, f"{run}-0", _clock(loaded, mix, number), mix.store)
    made.change = change_of(loaded.scenario.fault, mix.name, f"{loaded.scenario.seed} {name} {stream.name}")
    return made


def _clock(loaded: Loaded, mix: Devices, number: int) -> DeviceClock:
    dice = random.Random(f"{loaded.scenario.seed} {mix.name} {number} clock")
    skew_ms = mix.clock.skew_ms + dice.uniform(-mix.clock.spread_ms, mix.clock.spread_ms)
    jumps = [
        (fault.at_s, float(fault.by_ms))
        for fault in loaded.scenario.fault
        if isinstance(fault, ClockJump) and fault.devices in ("", mix.name)
    ]
    return DeviceClock(skew_ms, mix.clock.drift_ppm, jumps)


def _device(
    mix: Devices,
    number: int,
    streams: Sequence[LoadStream],
    lane: Lane,
    target: Target,
    run: str,
    folder: Path,
    logins: Mapping[str, str],
) -> Device:
    name = device_name(mix, number)
    login = logins.get(name) if target.credentials is not None else logins.get("")
    if target.credentials is not None and login is None:
        raise UsageError(f"expected a line `{name} PASSWORD` in {target.credentials}, found none")
    username = name if target.credentials is not None else target.username
    options = _options(target, folder, f"sim-{run}-{name}", username, login, mix.keepalive_s)
    kinds = ("result", "receipt") if mix.store else ("result",)
    filters = [(device_topic(target.root, target.site, name, "+", kind), mix.qos) for kind in kinds]
    return Device(mix.name, options, 5 if mix.protocol == "5" else 4, streams, filters, lane)


def options_of(target: Target, folder: Path, client_id: str) -> tuple[LinkOptions, int]:
    """Options and protocol of a connection that is no device's.

    Raises:
        UsageError: a password's file.
    """
    logins = _logins(target, folder)
    name, password = next(iter(logins.items()), ("", None))
    username = name if target.credentials is not None else target.username
    return _options(target, folder, client_id, username, password), 5


def _options(
    target: Target,
    folder: Path,
    client_id: str,
    username: str | None,
    password: str | None,
    keepalive_s: int = 60,
) -> LinkOptions:
    url = BrokerUrl.parse(target.url)
    if url.embedded:
        raise UsageError('expected the URL of a broker, such as "mqtt://127.0.0.1:1883", came "embedded"')
    ca = str(folder / target.ca) if target.ca is not None else None
    return LinkOptions(
        url.host, url.port, client_id, tls=url.tls, username=username, password=password, ca=ca,
        keepalive_s=keepalive_s,
    )  # fmt: skip


def _logins(target: Target, folder: Path) -> dict[str, str]:
    """Passwords by device; "" is the one that all share."""
    if target.credentials is not None:
        path = folder / target.credentials
        lines = [line.split(None, 1) for line in _read(path).splitlines() if line.strip()]
        if bad := [n for n, words in enumerate(lines, 1) if len(words) != 2]:
            raise UsageError(f"{path}:{bad[0]}: expected `DEVICE PASSWORD`")
        return {name: password.strip() for name, password in lines}
    return {"": _read(folder / target.password_file).rstrip("\r\n")} if target.password_file else {}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"expected a readable file of passwords at {path}: {error}") from None
