"""The configuration: what a small file becomes, and what each mistake is told."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.config import Address, BrokerUrl, Config, ModelRef, load, sources, warnings
from penstock_gateway.config.describe import renewed
from penstock_gateway.config.source import key_lines
from penstock_gateway.formats import Profile
from penstock_models.errors import UsageError

HEAD = """\
site = "home"
gateway = "gw1"
[mqtt]
url = "mqtt://127.0.0.1:1883"
[models]
path = "bundles"
"""
ROUTE = """\
[[route]]
topic = "penstock/v1/home/dev/{device}/{stream}/frame"
model = "person"
"""
SMALL = HEAD + ROUTE
"""The smallest file; [[route]] stands on line 7."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    for name in ("secret", "ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("s3cret\n")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def read(folder: Path, text: str, environ: Mapping[str, str] = {}) -> Config:
    (folder / "gateway.toml").write_text(text)
    return load(folder / "gateway.toml", environ)


def refusal(folder: Path, text: str, environ: Mapping[str, str] = {}) -> str:
    with pytest.raises(UsageError) as caught:
        read(folder, text, environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_smallest_file(folder: Path) -> None:
    config = read(folder, SMALL)
    (route,) = config.route
    assert (config.site, config.gateway, config.state) == ("home", "gw1", folder / "state")
    assert config.threads == len(os.sched_getaffinity(0))
    assert config.http.listen == Address("127.0.0.1", 8600)
    assert config.mqtt.url == BrokerUrl("127.0.0.1", 1883)
    assert config.mqtt.client_id == "penstock-home-gw1"
    assert config.mqtt.response_prefixes == ("penstock/v1/home/reply/",)
    assert config.models.path == folder / "bundles"
    assert (config.limits.max_frame_bytes, config.limits.max_pixels, config.limits.max_streams) == (
        8 << 20,
        16_800_000,
        2000,
    )
    assert (route.index, route.mode, route.deadline_ms, route.gap_s) == (0, "latest", 1000, 30.0)
    assert route.on_full == "drop_oldest", "a latest route keeps the newest"
    assert route.filter.match("penstock/v1/home/dev/door/cam/frame") == ("door", "cam")
    assert (route.default_device, route.default_stream) == ("0", "0")
    assert route.model == ModelRef("person")
    assert list(warnings(config)) == []


def test_a_full_file(folder: Path) -> None:
    config = read(
        folder,
        """\
site = "home"
gateway = "gw1"
state = "/var/lib/penstock"
threads = 3
http = { listen = "0.0.0.0:9000", token_file = "secret" }
[mqtt]
url = "mqtts://broker"
username = "gw"
password_file = "secret"
ca = "ca.pem"
cert = "cert.pem"
key = "key.pem"
client_id = "edge"
root = "plant/p"
share = "g"
response_prefixes = ["answers/"]
[models]
path = "bundles"
[journal]
max_bytes = 8_388_608
[limits]
max_frame_bytes = 1000
[[route]]
topic = "cameras/+/jpeg"
model = "person:7"
mode = "every"
deadline_ms = 200
max_age_ms = 5000
queue = 10
queue_bytes = 5000
on_full = "drop_newest"
gap_s = 2
device = "yard"
content_type = "application/x-tensor"
shape = [1, 640]
dtype = "f32"
[[route]]
topic = "b/{stream}"
model = "ad@stable"
[[model]]
name = "person"
devices = ["cuda", "cpu"]
""",
    )
    first, second = config.route
    assert (config.state, config.threads) == (Path("/var/lib/penstock"), 3)
    assert config.mqtt.url == BrokerUrl("broker", 8883, tls=True)
    assert config.mqtt.password_file is not None and config.mqtt.password_file.read() == "s3cret"
    assert "s3cret" not in repr(config)
    assert (first.default_device, first.default_stream, second.default_device) == ("yard", "0", "1")
    assert first.profile == Profile("application/x-tensor", "float32", (1, 640))
    assert (first.on_full, first.model, second.model) == (
        "drop_newest",
        ModelRef("person", 7),
        ModelRef("ad", label="stable"),
    )
    assert (config.of_model("person").devices, config.of_model("ad").devices) == (("cuda", "cpu"), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown keys, at every level, with the line and the nearest key
        ("colour = 1\n" + SMALL, ":1: colour: unknown key; known are gateway, http"),
        (HEAD + "pth = 1\n" + ROUTE, ":7: models.pth: unknown key; did you mean `path`?"),
        (SMALL + "deadline = 200\n", ":10: route[0].deadline: unknown key; did you mean `deadline_ms`?"),
        (SMALL + "[[rout]]\n", ":10: rout: unknown key; did you mean `route`?"),
        (SMALL + "cloud_model = 'x'\n", ":10: route[0].cloud_model: unknown key"),
        # units, types, bounds
        (SMALL + 'deadline_ms = "200ms"\n', ":10: route[0].deadline_ms: expected an integer of 1 to 86400000 (milliseconds), came '200ms' (str)"),
        (SMALL + "deadline_ms = 0\n", ":10: route[0].deadline_ms: expected an integer of 1 to 86400000 (milliseconds), came 0 (int)"),
        (SMALL + "deadline_ms = true\n", "route[0].deadline_ms: expected an integer"),
        (SMALL + "gap_s = -1\n", "route[0].gap_s: expected a number above 0 and up to 86400 (seconds), came -1"),
        (SMALL + "gap_s = nan\n", "route[0].gap_s: expected a number above 0"),
        (SMALL + 'mode = "newest"\n', "route[0].mode: expected one of `every`, `latest`, came 'newest'"),
        (SMALL + "shape = [1, 0]\n", "route[0].shape: expected a list, each an integer of 1 to 2147483647"),
        (SMALL + "shape = []\n", "route[0].shape: expected a list"),
        (SMALL + 'dtype = "float32"\n', "route[0].dtype: expected one of"),
        (SMALL + 'content_type = "text/plain"\n', "route[0].content_type: expected one of"),
        (SMALL.replace('"home"\n', '"my home"\n'), ":1: site: expected a name of 1 to 64 characters"),
        (SMALL.replace('"home"\n', '"home\\n"\n'), ":1: site: expected a name"),
        (SMALL + 'device = "ä"\n', "route[0].device: expected a name"),
        (SMALL.replace('"person"', '"Person"'), ':9: route[0].model: expected "NAME", "NAME:VERSION" or "NAME@LABEL"'),
        (SMALL.replace('"person"', '"person:0"'), "route[0].model: expected"),
        # missing keys and tables
        (SMALL.replace('site = "home"\n', ""), "gateway.toml: site: the key `site` is missing"),
        (HEAD + "[[route]]\ntopic = 'a'\n", ":7: route[0].model: the key `model` is missing: expected a model's name"),
        (HEAD, "route: expected at least one [[route]]"),
        (HEAD + "[route]\n", ":7: route: expected tables [[route]]"),
        ("mqtt = 1\nsite='a'\ngateway='b'\n", ":1: mqtt: expected a table [mqtt], came 1 (int)"),
        # no TOML
        ("site = \n" + SMALL, ":1: expected TOML: Invalid value"),
        (SMALL + 'x = "', ":10: expected TOML"),
        (SMALL + "site = 1\nsite = 1\n", ":11: expected TOML: Cannot overwrite a value"),
        # broker
        (SMALL.replace("mqtt://", "tcp://"), ":4: mqtt.url: expected \"mqtt://HOST:PORT\""),
        (SMALL.replace("127.0.0.1:1883", "me:pw@host"), ":4: mqtt.url: expected a URL without a user"),
        (SMALL.replace(":1883", ":99999"), ":4: mqtt.url: expected"),
        (SMALL.replace(":1883", ":1883/x"), ":4: mqtt.url: expected nothing after the port"),
        (SMALL.replace("[models]", "ca = 'ca.pem'\n[models]"), ":5: mqtt.ca: expected a url that starts with mqtts://"),
        (SMALL.replace("[models]", "cert = 'cert.pem'\n[models]"), ":5: mqtt.cert: expected `key` beside it"),
        (SMALL.replace("[models]", "password_file = 'secret'\n[models]"), ":5: mqtt.password_file: expected `username`"),
        (SMALL.replace("[models]", "root = 'a/#'\n[models]"), ":5: mqtt.root: must be a topic without wildcards"),
        (SMALL.replace("[models]", "root = 'a//b'\n[models]"), ":5: mqtt.root: must not start with $ nor"),
        (SMALL.replace("[models]", "share = 'a/b'\n[models]"), ":5: mqtt.share: expected a name"),
        (SMALL.replace("[models]", "response_prefixes = ['']\n[models]"), ":5: mqtt.response_prefixes: expected a topic"),
        (SMALL.replace("[models]", "response_prefixes = ['penstock/']\n[models]"), "holds the gateway's own topics"),
        (
            SMALL.replace("[models]", "response_prefixes = ['cams/']\n[models]") + "[[route]]\ntopic='cams/#'\nmodel='p'\n",
            ":5: mqtt.response_prefixes: 'cams/' holds topics of route 1",
        ),
        # files
        (SMALL.replace("[models]", "username = 'u'\npassword_file = 'nope'\n[models]"), ":6: mqtt.password_file: expected an existing file"),
        (SMALL.replace("bundles", "nothing"), ":6: models.path: expected an existing folder"),
        ("state = 'secret'\n" + SMALL, ":1: state: expected a folder"),
        # http
        ("http.listen = '0.0.0.0:8600'\n" + SMALL, ":1: http.listen: expected a loopback address"),
        ("http.listen = '8600'\n" + SMALL, ':1: http.listen: expected "HOST:PORT"'),
        # routes
        (SMALL + "on_full = 'wait'\n", ":10: route[0].on_full: is fixed for `latest` routes"),
        (SMALL + "device = 'a'\n", ":10: route[0].device: the topic 'penstock/v1/home/dev/{device}/{stream}/frame' already"),
        (SMALL + "queue_bytes = 1\n", ":10: route[0].queue_bytes: expected at least limits.max_frame_bytes (8388608), came 1"),
        (SMALL.replace("/frame", "/result"), ":8: route[0].topic:"),
        (SMALL.replace("penstock/v1/home/dev/{device}/{stream}/frame", "#"), "a result would become a frame"),
        (SMALL.replace("{device}/{stream}/frame", "a#"), ":8: route[0].topic: topic"),
        (
            SMALL + "[[route]]\ntopic = 'penstock/v1/+/dev/door/+/frame'\nmodel = 'b'\n",
            ":11: route[1].topic: 'penstock/v1/+/dev/door/+/frame' and 'penstock/v1/home/dev/{device}/{stream}/frame' (",
        ),
        (SMALL + "[[model]]\nname='a'\n[[model]]\nname='a'\n", ":13: model[1].name: 'a' stands in an earlier"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(folder: Path, text: str, message: str) -> None:
    said = refusal(folder, text)
    assert str(folder / "gateway.toml") in said
    assert message in said


def test_a_missing_or_unreadable_file(folder: Path) -> None:
    with pytest.raises(
        UsageError, match=re.escape(f"{folder}/none.toml: expected a readable configuration file")
    ):
        load(folder / "none.toml", {})
    (folder / "gateway.toml").write_bytes(b"# fine\nsite = '\xff'\n")
    with pytest.raises(UsageError, match=r"gateway\.toml:2: expected UTF-8 text, came the byte 0xff"):
        load(folder / "gateway.toml", {})


def test_the_environment_overrides_the_file(folder: Path) -> None:
    environ = {
        "PENSTOCK_MQTT__URL": "embedded",
        "PENSTOCK_LIMITS__MAX_STREAMS": "17",
        "PENSTOCK_STATE": "elsewhere",
        "PENSTOCK_REALDATA": "/x",
        "PENSTOCK_DEBUG": "1",
        "PENSTOCK_SOAK": "1",
        "HOME": "/root",
    }
    config = read(folder, SMALL, environ)
    assert config.mqtt.url.embedded
    assert config.limits.max_streams == 17
    assert config.state == folder / "elsewhere"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "PENSTOCK_LIMITS__MAX_STREAMS",
            "many",
            "limits.max_streams: expected an integer of 1 to 1000000, came 'many'",
        ),
        ("PENSTOCK_MQTT__UTL", "x", "no key of the configuration; did you mean `PENSTOCK_MQTT__URL`?"),
        ("PENSTOCK_MQTT__RESPONSE_PREFIXES", "a/", "a list cannot come from the environment"),
        ("PENSTOCK_ROUTE__0__TOPIC", "x", "[[route]] is a list: write it into the file"),
        ("PENSTOCK_MQTT", "x", "no key of the configuration"),
        ("PENSTOCK_MQTT__CA", "none.pem", "mqtt.ca: expected an existing file"),
    ],
)
def test_a_wrong_variable_is_named(folder: Path, variable: str, value: str, message: str) -> None:
    said = refusal(folder, SMALL, {variable: value})
    assert said.startswith(f"environment {variable}: ")
    assert message in said


def test_sources_tell_where_each_value_came_from(folder: Path) -> None:
    config = read(folder, SMALL, {"PENSTOCK_GATEWAY": "gw2"})
    found = {source.key: (source.value, source.origin) for source in sources(config)}
    file = folder / "gateway.toml"
    assert found["site"] == ("home", f"{file}:1")
    assert found["gateway"] == ("gw2", "environment PENSTOCK_GATEWAY")
    assert found["mqtt.url"] == ("mqtt://127.0.0.1:1883", f"{file}:4")
    assert found["route[0].model"] == ("person", f"{file}:9")
    assert found["limits.max_streams"] == ("2000", "default")


def test_open_secrets_and_unused_models_are_warned_about(folder: Path) -> None:
    (folder / "secret").chmod(0o644)
    text = SMALL.replace("[models]", "username = 'u'\npassword_file = 'secret'\n[models]")
    said = list(warnings(read(folder, text + "[[model]]\nname = 'other'\n")))
    assert len(said) == 2
    assert ":6: mqtt.password_file:" in said[0] and "chmod 600" in said[0]
    assert "no route uses the model other" in said[1]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"x" * 70_000])
def test_a_useless_secret_is_refused_when_used(folder: Path, content: bytes) -> None:
    text = SMALL.replace("[models]", "username = 'u'\npassword_file = 'secret'\n[models]")
    secret = read(folder, text).mqtt.password_file
    assert secret is not None
    secret.path.write_bytes(content)
    with pytest.raises(UsageError, match="secret"):
        secret.read()


@pytest.mark.parametrize(
    ("text", "shown", "loopback"),
    [
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("[::1]:8600", "[::1]:8600", True),
        ("localhost:1", "localhost:1", True),
        ("0.0.0.0:1", "0.0.0.0:1", False),
        ("box.local:1", "box.local:1", False),
    ],
)
def test_addresses(text: str, shown: str, loopback: bool) -> None:
    address = Address.parse(text)
    assert (str(address), address.loopback) == (shown, loopback)


@given(st.text())
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    for parse in (Address.parse, BrokerUrl.parse, ModelRef.parse):
        try:
            value = parse(text)
        except UsageError:
            continue
        assert parse(str(value)) == value


def test_lines_of_unusual_toml() -> None:
    text = """\
# comment
a.b = 1

"c d" = [
  1, # one
  { x = 2 },
]
text = '''
[not.a.table]
e = 5
'''
[[r]]
[r.sub]
k = 1
[[r]] # two
k = "# no comment"
[t . "u v"]
k = 1
"""
    lines = key_lines(text)
    expected = {
        ("a",): 2,
        ("a", "b"): 2,
        ("c d",): 4,
        ("c d", 1, "x"): 4,
        ("text",): 8,
        ("r", 0): 12,
        ("r", 0, "sub"): 13,
        ("r", 0, "sub", "k"): 14,
        ("r", 1): 15,
        ("r", 1, "k"): 16,
        ("t", "u v", "k"): 18,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert ("e",) not in lines


def test_the_page_of_keys_is_fresh() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == renewed(page), "run: python -m penstock_gateway.config docs/configuration.md"
