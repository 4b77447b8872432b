"""What must be true between the keys of a configuration: pure rules, apart from asking whether named files exist.

A rule yields `(key, message)`; the reader adds the place of the key and raises the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

from penstock_gateway.config.tree import Config, Route
from penstock_gateway.config.values import SecretFile
from penstock_gateway.topics import TopicFilter, is_topic, own_filters, root_problem
from penstock_models.errors import UsageError
from penstock_models.store import check_label
from penstock_models.versions.policy import parse_policy
from penstock_models.versions.split import check_split, check_target

Problem = tuple[str, str]


def problems(config: Config) -> Iterator[Problem]:
    """Everything that is wrong with a configuration whose values are right one by one."""
    yield from _files(config)
    yield from _http(config)
    yield from _mqtt(config)
    if not config.route:
        yield "route", "expected at least one [[route]] with `topic` and `model`, came none"
    for route in config.route:
        yield from _route(config, route)
    yield from _overlaps(config)
    for prefix in config.mqtt.response_prefixes:
        yield from _prefix(config, prefix)
    yield from _models(config)


def warnings(config: Config) -> Iterator[str]:
    """What is allowed and yet deserves a line at start."""
    for key, secret in (
        ("http.token_file", config.http.token_file),
        ("mqtt.password_file", config.mqtt.password_file),
    ):
        if secret is not None and secret.too_open():
            yield f"{config.origins[key]}: {key}: {secret} can be read by others; chmod 600 it"
    if config.mqtt.key is not None and config.mqtt.key.stat().st_mode & 0o044:
        yield f"{config.origins['mqtt.key']}: mqtt.key: {config.mqtt.key} can be read by others; chmod 600 it"
    if config.mqtt.url.embedded and not config.mqtt.listen.loopback:
        yield f"mqtt.listen: the embedded broker on {config.mqtt.listen} takes everybody who can reach it"
    routed = {reference.name for reference in config.references}
    for number, model in enumerate(config.model):
        if model.name not in routed:
            yield f"{config.origins[f'model[{number}].name']}: no route uses the model {model.name}"


def _path(secret: SecretFile | None) -> Path | None:
    return None if secret is None else secret.path


def _files(config: Config) -> Iterator[Problem]:
    mqtt = config.mqtt
    files: dict[str, Path | None] = {
        "http.token_file": _path(config.http.token_file),
        "mqtt.password_file": _path(mqtt.password_file),
        "mqtt.ca": mqtt.ca,
        "mqtt.cert": mqtt.cert,
        "mqtt.key": mqtt.key,
    }
    for key, path in files.items():
        if path is not None and not path.is_file():
            yield key, f"expected an existing file, there is none at {path}"
    if not config.models.path.is_dir():
        yield "models.path", f"expected an existing folder of bundles, there is none at {config.models.path}"
    if config.state.exists() and not config.state.is_dir():
        yield "state", f"expected a folder, {config.state} is a file"


def _http(config: Config) -> Iterator[Problem]:
    if not config.http.listen.loopback and config.http.token_file is None:
        yield (
            "http.listen",
            f"expected a loopback address such as 127.0.0.1:8600, or `token_file` beside it, came {config.http.listen}",
        )


def _mqtt(config: Config) -> Iterator[Problem]:
    mqtt = config.mqtt
    if mqtt.password_file is not None and mqtt.username is None:
        yield "mqtt.password_file", "expected `username` beside it"
    if (mqtt.cert is None) != (mqtt.key is None):
        have, lack = ("cert", "key") if mqtt.cert else ("key", "cert")
        yield f"mqtt.{have}", f"expected `{lack}` beside it: a client certificate needs both"
    if not mqtt.url.tls:
        for key, path in (("ca", mqtt.ca), ("cert", mqtt.cert)):
            if path is not None:
                yield f"mqtt.{key}", f"expected a url that starts with mqtts:// beside it, came {mqtt.url}"
    if (problem := root_problem(mqtt.root)) is not None:
        yield "mqtt.root", f"{problem}, came {mqtt.root!r}"


def _prefix(config: Config, prefix: str) -> Iterator[Problem]:
    key = "mqtt.response_prefixes"
    if not is_topic(prefix) or not prefix.endswith("/") or prefix.startswith(("$", "/")):
        yield key, f"expected a topic without wildcards that ends in /, came {prefix!r}"
        return
    answers = TopicFilter.parse(prefix + "#")
    for own in own_filters(config.mqtt.root, config.site):
        if answers.overlaps(own):
            yield key, f"{prefix!r} holds the gateway's own topics ({own.text}): choose a prefix beside them"
    for route in config.route:
        if answers.overlaps(route.filter):
            yield (
                key,
                f"{prefix!r} holds topics of route {route.index} ({route.topic}): an answer would be a frame",
            )


def _route(config: Config, route: Route) -> Iterator[Problem]:
    key = f"route[{route.index}]"
    if route.mode == "latest" and config.origins[f"{key}.on_full"] != "default":
        yield (
            f"{key}.on_full",
            'is fixed for `latest` routes (the oldest frame goes); remove it, or set mode = "every"',
        )
    for name, level in (("device", route.filter.device), ("stream", route.filter.stream)):
        if level >= 0 and getattr(route, name) is not None:
            yield (
                f"{key}.{name}",
                f"the topic {route.topic!r} already gives it as {{{name}}}: remove one of them",
            )
    if route.queue_bytes < config.limits.max_frame_bytes:
        least = config.limits.max_frame_bytes
        yield (
            f"{key}.queue_bytes",
            f"expected at least limits.max_frame_bytes ({least}), came {route.queue_bytes}",
        )
    if len(route.chain) % 2 or any(step != "crop" for step in route.chain[::2]):
        came = ", ".join(route.chain)
        yield f"{key}.chain", f'expected "crop" and a model in turns, such as ["crop", "breed"], came {came}'
    for own in own_filters(config.mqtt.root, config.site):
        if route.filter.overlaps(own):
            yield (
                f"{key}.topic",
                f"{route.topic!r} takes in the gateway's own {own.text}: a result would become a frame",
            )


def _overlaps(config: Config) -> Iterator[Problem]:
    for one, two in combinations(config.route, 2):
        if one.filter.overlaps(two.filter):
            first = config.origins[f"route[{one.index}].topic"]
            yield (
                f"route[{two.index}].topic",
                f"{two.topic!r} and {one.topic!r} ({first}) can match the same topic: a frame has one route",
            )


def _models(config: Config) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, model in enumerate(config.model):
        if model.name in seen:
            yield (
                f"model[{number}].name",
                f"{model.name!r} stands in an earlier [[model]] already: join the two",
            )
        seen.add(model.name)
        judges: dict[str, Callable[[], object]] = {
            "policy": partial(parse_policy, model.policy),
            "labels": partial(_check_labels, model.labels),
            "split": partial(check_split, model.split),
            "shadow": partial(check_target, model.shadow or "none"),
        }
        for name, judge in judges.items():
            try:
                judge()
            except UsageError as error:
                yield f"model[{number}].{name}", str(error)


def _check_labels(labels: dict[str, int]) -> None:
    for label in labels:
        check_label(label)


def check(config: Config) -> None:
    """Raise the first problem with the place of its key.

    Raises:
        UsageError: one line.
    """
    for key, message in problems(config):
        place = config.origins.get(key, str(config.file))
        place = str(config.file) if place == "default" else place
        raise UsageError(f"{place}: {key}: {message}")
