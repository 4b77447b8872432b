"""Which connections a configuration needs, and what each has been told by the broker (contracts 5).

Frames never block a command, one full route never another: control, results, all `latest` routes and each `every`
route have a connection of their own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from penstock_gateway.broker_check import Needs, warnings
from penstock_gateway.config import Config, Route
from penstock_gateway.embedded import Address
from penstock_gateway.logs import Log
from penstock_gateway.mqtt import Granted, Link, LinkOptions, Publish
from penstock_gateway.wire import LinkStatus

SESSION_EXPIRY_S = 7 * 24 * 3600
"""How long the broker keeps a persistent session: longer than the longest outage that a site is expected to have."""

RECEIVE_MAXIMUM = 1000
WILL_DELAY_S = 5

log = Log(__name__)


@dataclass(frozen=True)
class Plan:
    """One connection: its options, and the routes whose frames it brings."""

    name: str
    options: LinkOptions
    routes: tuple[Route, ...] = ()


def plan(config: Config, broker: Address, will: Publish) -> tuple[Plan, ...]:
    """The connections of a gateway: control first, then results, then those that bring frames."""
    mqtt = config.mqtt
    base = LinkOptions(
        broker.host,
        broker.port,
        client_id="",
        protocol=4 if broker.kind == "amqtt" else 5,  # amqtt is silent on a v5 CONNECT
        tls=mqtt.url.tls,
        username=mqtt.username,
        password=mqtt.password_file.read() if mqtt.password_file else None,
        ca=str(mqtt.ca) if mqtt.ca else None,
        cert=str(mqtt.cert) if mqtt.cert else None,
        key=str(mqtt.key) if mqtt.key else None,
        receive_maximum=RECEIVE_MAXIMUM,
    )

    def options(name: str, routes: Sequence[Route] = (), **given: object) -> Plan:
        subscriptions = tuple((subscription(route, mqtt.share), 1) for route in routes)
        values = {"client_id": f"{mqtt.client_id}-{name}", "subscriptions": subscriptions, **given}
        return Plan(name, msgspec.structs.replace(base, **values), tuple(routes))

    control = options("control", session_expiry_s=SESSION_EXPIRY_S, will=will, will_delay_s=WILL_DELAY_S)
    latest = [route for route in config.route if route.mode == "latest"]
    return (
        control,
        options("results"),
        *([options("latest", latest)] if latest else []),
        *(
            options(every_name(route), [route], session_expiry_s=SESSION_EXPIRY_S)
            for route in config.route
            if route.mode == "every"
        ),
    )


def every_name(route: Route) -> str:
    """A name that stays while the topic stays, since the broker keeps the session under it."""
    return f"every-{hashlib.sha256(route.topic.encode()).hexdigest()[:8]}"


def subscription(route: Route, share: str | None) -> str:
    return f"$share/{share}/{route.filter.subscription}" if share else route.filter.subscription


@dataclass
class Watch:
    """What is known of one connection: the `LinkState` of its link.

    `on_change` is called after every change.
    """

    name: str
    needs: Needs
    on_change: Callable[[], None]
    connected: bool = False
    since: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    reason: str | None = None
    granted: Granted | None = None
    was_up: bool = False

    @property
    def heard(self) -> bool:
        """Whether the first attempt has come to something."""
        return self.connected or self.reason is not None

    @property
    def trouble(self) -> str | None:
        """Why this connection does not bring or take what it is for; None where it does."""
        if self.granted is not None and self.granted.refused:
            return f"the broker refused to subscribe to {', '.join(self.granted.refused)}"
        return None if self.connected else self.reason or "connecting"

    def up(self, granted: Granted) -> None:
        needs = msgspec.structs.replace(self.needs, session_expected=self.was_up)
        for warning in warnings(granted, needs):
            log.warning("broker", link=self.name, warning=warning)
        log.info("connected", link=self.name, protocol=granted.protocol)
        self.was_up = True
        self._change(connected=True, reason=None, granted=granted)

    def down(self, reason: str) -> None:
        if self.connected or self.reason != reason:
            log.warning("disconnected", link=self.name, reason=reason)
        self._change(connected=False, reason=reason, granted=None)

    def view(self, link: Link) -> LinkStatus:
        return LinkStatus(
            name=self.name,
            connected=self.connected,
            since=self.since,
            protocol=self.granted.protocol if self.granted else None,
            overruns=link.overruns,
            refused=dict(link.refused),
            dropped=link.dropped,
            reason=self.trouble if self.heard else None,
        )

    def _change(self, *, connected: bool, reason: str | None, granted: Granted | None) -> None:
        if connected != self.connected:
            self.since = time.time_ns() // 1_000_000
        self.connected, self.reason, self.granted = connected, reason, granted
        self.on_change()
