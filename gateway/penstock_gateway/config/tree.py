"""The configuration as one frozen tree: every key of the file, its type, its bounds and its default (contracts 8).

A component gets its own slice only. Fields that are not keys of the file (`Route.index`, `Route.filter`, `Route.profile`, `Config.file`,
`Config.origins`) are filled in by the reader. Units are in the names; paths are absolute once read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from penstock_gateway.config.values import Address, BrokerUrl, ModelRef, SecretFile
from penstock_gateway.formats import MAX_DIM, MAX_DIMS, ContentType, Dtype, Profile
from penstock_gateway.topics import TopicFilter
from penstock_models.manifest_rules import MAX_VERSION

MAX_WAIT_MS = 24 * 3600 * 1000
MAX_AGE_MS = 366 * MAX_WAIT_MS
MAX_BYTES = 1 << 44

NameText = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
ModelName = Annotated[str, Meta(pattern=r"\A[a-z0-9_-]{1,64}\Z")]
ReferenceText = Annotated[str, Meta(pattern=r"\A[a-z0-9_-]{1,64}(:[1-9][0-9]{0,18}|@[a-z0-9_-]{1,64})?\Z")]
VersionNumber = Annotated[int, Meta(ge=1, le=MAX_VERSION)]
Milliseconds = Annotated[int, Meta(ge=1, le=MAX_WAIT_MS)]
Dimension = Annotated[int, Meta(ge=1, le=MAX_DIM)]
Shape = Annotated[tuple[Dimension, ...], Meta(min_length=1, max_length=MAX_DIMS)]


def doc(text: str) -> Meta:
    """Say in one line what a key means; the table of keys in the documentation is made of these."""
    return Meta(description=text)


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    listen: Annotated[
        Address, doc("where health, metrics and status are served; beyond loopback a token is needed")
    ] = Address("127.0.0.1", 8600)
    token_file: Annotated[
        SecretFile | None, doc("file with one `NAME TOKEN` a line that callers must show")
    ] = None


class MqttConfig(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[BrokerUrl, doc("`mqtt://HOST[:1883]`, `mqtts://HOST[:8883]`, or `embedded`")]
    username: Annotated[Annotated[str, Meta(max_length=256)] | None, doc("user name at the broker")] = None
    password_file: Annotated[SecretFile | None, doc("file that holds the password")] = None
    ca: Annotated[Path | None, doc("certificates to trust (PEM); left out: the system's")] = None
    cert: Annotated[Path | None, doc("client certificate (PEM), with `key`")] = None
    key: Annotated[Path | None, doc("private key of `cert` (PEM)")] = None
    client_id: Annotated[
        str, Meta(min_length=1, max_length=200), doc("stem of the ids of our connections")
    ] = "penstock-{site}-{gateway}"
    root: Annotated[str, Meta(min_length=1, max_length=256), doc("first level of our own topics")] = (
        "penstock"
    )
    share: Annotated[NameText | None, doc("group of a shared subscription")] = None
    listen: Annotated[Address, doc("where the embedded broker listens")] = Address("127.0.0.1", 1883)
    response_prefixes: Annotated[
        tuple[str, ...],
        Meta(max_length=64),
        doc("a Response Topic is served where it starts with one of these; each ends in `/`"),
    ] = ("{root}/v1/{site}/reply/",)


class ModelsConfig(msgspec.Struct, frozen=True, kw_only=True):
    path: Annotated[Path, doc("the model store: a folder of bundles")]


class JournalConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_bytes: Annotated[
        int, Meta(ge=8 << 20, le=MAX_BYTES), doc("the journal of `every` routes, on disk, in bytes")
    ] = 1 << 30


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_frame_bytes: Annotated[
        int, Meta(ge=1, le=256 << 20), doc("a larger message is `rejected: too_large`")
    ] = 8 << 20
    max_pixels: Annotated[
        int, Meta(ge=1, le=1 << 30), doc("a larger picture is `rejected: pixels`, before it is decoded")
    ] = 16_800_000
    max_streams: Annotated[
        int, Meta(ge=1, le=1_000_000), doc("streams that may be known at once; beyond: `rejected: quota`")
    ] = 2000


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[route]]`. `profile` is what it says of messages that do not say it themselves."""

    index: int
    filter: TopicFilter
    profile: Profile
    topic: Annotated[
        str, doc("an MQTT filter; `{device}` and `{stream}` name the levels that give these names")
    ]
    model: Annotated[ModelRef, doc("`NAME`, `NAME:VERSION` or `NAME@LABEL`")]
    mode: Annotated[
        Literal["latest", "every"], doc("keep the newest frame of a stream, or journal every one")
    ] = "latest"
    deadline_ms: Annotated[Milliseconds, doc("from arrival to answer")] = 1000
    max_age_ms: Annotated[
        int,
        Meta(ge=1, le=MAX_AGE_MS),
        doc("an older frame is `expired: max_age` (`latest`) or `historical` (`every`)"),
    ] = 60_000
    queue: Annotated[int, Meta(ge=1, le=10_000_000), doc("frames that may wait")] = 10_000
    queue_bytes: Annotated[int, Meta(ge=1, le=MAX_BYTES), doc("bytes that may wait")] = 64 << 20
    on_full: Annotated[
        Literal["wait", "drop_oldest", "drop_newest"],
        doc("what a full queue does; `every` only, since `latest` always drops the oldest"),
    ] = "wait"
    gap_s: Annotated[
        float,
        Meta(gt=0, le=86_400),
        doc("how long a gap in `seq` is waited for before it is `missing_upstream`"),
    ] = 30.0
    device: Annotated[
        NameText | None, doc("device where the topic names none; left out: the route's number")
    ] = None
    stream: Annotated[
        NameText | None, doc("stream where the topic names none; left out: the route's number")
    ] = None
    content_type: Annotated[ContentType | None, doc("what a message without a Content Type holds")] = None
    shape: Annotated[Shape | None, doc("shape of a tensor that does not bring one")] = None
    dtype: Annotated[Dtype | None, doc("dtype of a tensor that does not bring one")] = None
    chain: Annotated[
        tuple[ReferenceText, ...],
        Meta(max_length=8),
        doc('what follows the model: `["crop", "MODEL"]` gives each part that it found to MODEL, and so on'),
    ] = ()

    @property
    def stages(self) -> tuple[ModelRef, ...]:
        """The models behind the first one."""
        return tuple(ModelRef.parse(text) for text in self.chain[1::2])

    @property
    def default_device(self) -> str:
        """The device of a frame whose topic names none."""
        return self.device or str(self.index)

    @property
    def default_stream(self) -> str:
        """The stream of a frame whose topic names none."""
        return self.stream or str(self.index)


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[ModelName, doc("the model's name in the store")]
    devices: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(max_length=16),
        doc("devices to try, best first; left out: the CPU"),
    ] = ()
    policy: Annotated[
        str | Annotated[tuple[VersionNumber, ...], Meta(min_length=1, max_length=64)],
        doc("which versions of the store are wanted: `latest:N`, `all`, or a list of numbers"),
    ] = "latest:1"
    transition: Annotated[
        Literal["availability", "resource"],
        doc("load a new version before the old one goes, or let the old one go first"),
    ] = "availability"
    labels: Annotated[
        dict[str, VersionNumber],
        doc("versions by label: what routes call `NAME@LABEL`; they are kept loaded"),
    ] = {}
    split: Annotated[
        dict[str, float], doc("weights of versions or labels that share the streams of `NAME`")
    ] = {}
    shadow: Annotated[
        str,
        Meta(max_length=64),
        doc("a version or label that gets copies and is compared; nobody gets its answers"),
    ] = ""
    cache_bytes: Annotated[
        int,
        Meta(ge=0, le=MAX_BYTES),
        doc("answers that are kept for inputs that come again, as `cache`; 0: none"),
    ] = 0
    isolation: Annotated[
        Literal["none", "process"] | None,
        doc(
            "`process`: each version in a process of its own; left out: where an accelerator is among the devices"
        ),
    ] = None


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole tree. `file` is where it came from, `origins` says it for each key (see `sources`)."""

    file: Path
    origins: Mapping[str, str]
    site: Annotated[NameText, doc("where the gateway stands")]
    gateway: Annotated[NameText, doc("the gateway's name")]
    state: Annotated[Path, doc("folder for what must survive a restart; created")] = Path("state")
    threads: Annotated[int, Meta(ge=1, le=1024), doc("inference threads; left out: the cores")] = (
        msgspec.field(default_factory=usable_cores)
    )
    http: HttpConfig
    mqtt: MqttConfig
    models: ModelsConfig
    journal: JournalConfig
    limits: LimitsConfig
    route: tuple[Route, ...]
    model: tuple[ModelConfig, ...] = ()

    @property
    def references(self) -> tuple[ModelRef, ...]:
        """Every model that a route names, once."""
        named = (ref for route in self.route for ref in (route.model, *route.stages))
        return tuple(dict.fromkeys(named))

    def of_model(self, name: str) -> ModelConfig:
        """What the file says of a model."""
        return next((m for m in self.model if m.name == name), ModelConfig(name=name))
