"""`gateway check`: what a configuration comes to, whether its models are there, whether its broker keeps promises."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from penstock_gateway import connections
from penstock_gateway.broker_check import Needs, ask, probe_foreign_publish, probe_queue, warnings
from penstock_gateway.config import Config, Route, Source, sources
from penstock_gateway.config import warnings as config_warnings
from penstock_gateway.embedded import Address
from penstock_gateway.mqtt import LinkOptions, Publish
from penstock_gateway.topics import device_topic
from penstock_models.errors import PenstockError
from penstock_models.measure import solo_p95_ms
from penstock_models.scheduling.runs import deadline_problem
from penstock_models.store import open_version, resolve
from penstock_models.vetting.vet import vet_blocking


class RouteReport(msgspec.Struct, frozen=True):
    """A route as it will run."""

    index: int
    subscription: str
    model: str
    mode: str
    deadline_ms: int
    max_age_ms: int
    device: str
    stream: str
    full: str


class Report(msgspec.Struct, frozen=True):
    """What was found. `problems` are reasons why the gateway will not run, `warnings` what deserves a look."""

    values: list[Source]
    routes: list[RouteReport]
    broker: list[str]
    warnings: list[str]
    problems: list[str]


async def examine(config: Config, broker: bool, queue: int) -> Report:
    """Examine a configuration that could be read.

    Args:
        broker: connect to the broker as the gateway would, and try what it allows.
        queue: measure the broker's queue with so many messages; 0 leaves that out.
    """
    models, problems = await asyncio.to_thread(_models, config)
    infeasible = [line for route in config.route if (line := _infeasible(route, models))]
    found: tuple[list[str], list[str]] = ([], [])
    if broker:
        try:
            found = await _broker(config, queue)
        except PenstockError as error:
            problems.append(f"broker: {error}")
    return Report(
        sources(config),
        [_route(config, route, models) for route in config.route],
        found[0],
        [*config_warnings(config), *infeasible, *found[1]],
        problems,
    )


class Tried(NamedTuple):
    """What a reference comes to, and what an item alone takes, 0 where that could not be measured."""

    name: str
    p95_ms: float


def _models(config: Config) -> tuple[dict[str, Tried], list[str]]:
    """What each reference comes to, and what is wrong with those that come to nothing.

    A version is tried in a limited process first, as the gateway will do it.
    """
    found, problems = {}, []
    for ref in config.references:
        labelled = config.of_model(ref.name).labels.get(ref.label) if ref.label else None
        try:
            path = resolve(config.models.path, f"{ref.name}:{labelled}" if labelled else str(ref))
            verdict = vet_blocking(path, config.of_model(ref.name).devices)
            verdict.require()
            bundle = open_version(path)
            name = f"{bundle.manifest.name}:{bundle.manifest.version} ({bundle.digest[:19]}…)"
            found[str(ref)] = Tried(name, solo_p95_ms(path))
        except PenstockError as error:
            problems.append(str(error))
    return found, problems


def _infeasible(route: Route, models: Mapping[str, Tried]) -> str:
    """Why the route's deadline cannot be met by a frame alone, "" where it can or nothing was measured."""
    p95_ms = sum(models[str(ref)].p95_ms for ref in (route.model, *route.stages) if str(ref) in models)
    why = deadline_problem(route.deadline_ms, p95_ms)
    return f"route {route.index}: {why}" if why else ""


def _route(config: Config, route: Route, models: Mapping[str, Tried]) -> RouteReport:
    tried = models.get(str(route.model))
    where = f"{route.queue} frames or {route.queue_bytes} bytes: {route.on_full}"
    return RouteReport(
        index=route.index,
        subscription=connections.subscription(route, config.mqtt.share),
        model=tried.name if tried is not None else str(route.model),
        mode=route.mode,
        deadline_ms=route.deadline_ms,
        max_age_ms=route.max_age_ms,
        device="the topic" if route.filter.device >= 0 else route.default_device,
        stream="the topic" if route.filter.stream >= 0 else route.default_stream,
        full="one frame a stream: the newest replaces it" if route.mode == "latest" else where,
    )


async def _broker(config: Config, queue: int) -> tuple[list[str], list[str]]:
    """Facts about the broker, and named warnings."""
    if config.mqtt.url.embedded:
        return ["embedded: started with the gateway, with limits that keep the promises"], []
    url = config.mqtt.url
    plans = connections.plan(config, Address(url.host, url.port, ""), Publish("", b""))
    base = msgspec.structs.replace(plans[0].options, will=None, subscriptions=(), session_expiry_s=0)
    granted = [await ask(plan.options) for plan in plans]
    facts = [f"MQTT {'5' if granted[0].protocol == 5 else '3.1.1'} at {url}"]
    most = config.limits.max_frame_bytes
    told = (
        warning
        for plan, found in zip(plans, granted, strict=True)
        for warning in warnings(found, Needs(most, plan.options.session_expiry_s))
    )
    named = list(dict.fromkeys(told))
    fact, warning = await _foreign(config, base)
    facts += fact
    named += warning
    if queue:
        topic = device_topic(
            config.mqtt.root, config.site, f"probe-{secrets.token_hex(4)}", "queue", "result"
        )
        kept = await probe_queue(base, queue, topic)
        facts.append(f"queued {kept} of {queue} messages for an absent gateway")
        if kept < queue:
            named.append(
                f"queue_small: {queue - kept} of {queue} messages were dropped, though the sender got Success"
            )
    return facts, named


async def _foreign(config: Config, base: LinkOptions) -> tuple[list[str], list[str]]:
    """Whether somebody else can publish as a device: facts and warnings."""
    topics = foreign_topics(config)
    found = await probe_foreign_publish(base, list(topics))
    facts = [
        f"not tried: {route.topic} names no device, so that a probe would be a frame"
        for route in config.route
        if route.topic not in topics.values()
    ]
    if not found:
        return [*facts, "closed: a publish as a foreign device was refused"], []
    where = ", ".join(topics[topic] for topic in found)
    return facts, [
        f"open: anybody may publish as any device to {where}; bind topics to users (deploy/mosquitto.acl)"
    ]


def foreign_topics(config: Config) -> dict[str, str]:
    """A topic of a device that exists nowhere, for each topic that is a device's, and what that is called.

    The device's name is none that a gateway accepts: one that is running counts the probe, and does nothing with it.
    """
    nobody = f"probe.{secrets.token_hex(4)}"
    topics = {
        "/".join(nobody if level in ("+", "#") else level for level in route.filter.levels): route.topic
        for route in config.route
        if route.filter.device >= 0
    }
    status = f"{config.mqtt.root}/v1/{config.site}/dev/{{device}}/status"
    return topics | {status.format(device=nobody): status}
