"""From a file and an environment to the checked tree: unknown keys, types, defaults, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec.structs import FieldInfo

from penstock_gateway.config.describe import (
    ARRAYS,
    TABLES,
    is_list,
    keys_of,
    plain_type,
    required,
    show,
    takes,
)
from penstock_gateway.config.rules import check
from penstock_gateway.config.source import ENV_PREFIX, Document, KeyPath, env_values, read_document
from penstock_gateway.config.tree import Config, Route
from penstock_gateway.config.values import SecretFile
from penstock_gateway.formats import NUMPY_NAMES, Profile
from penstock_gateway.topics import TopicFilter
from penstock_models.errors import UsageError


class Source(msgspec.Struct, frozen=True):
    """One key: its value as text, and where that came from (`FILE:LINE`, `environment NAME`, `default`)."""

    key: str
    value: str
    origin: str


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read, convert and check a configuration.

    Raises:
        UsageError: one line with the path and line (or the variable), what was expected and what came.
    """
    reader = _Reader(read_document(path), environ)
    config = reader.config()
    check(config)
    return config


def sources(config: Config) -> list[Source]:
    """Every key of the tree with its value and origin, in the order of the tables."""
    found = []
    for key, origin in config.origins.items():
        value: Any = config
        for part in key.replace("]", "").replace("[", ".").split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        found.append(Source(key, show(value), origin))
    return found


class _Reader:
    """One reading. It consumes `env` as keys use it, so that what is left over is unknown."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._folder = document.path.resolve().parent
        self._env = env_values(environ)
        self._origins: dict[str, str] = {}

    def config(self) -> Config:
        data = self._document.data
        self._refuse_unknown(data, (), [*keys_of(Config), *TABLES, *ARRAYS])
        values = self._values(
            Config, {k: v for k, v in data.items() if k not in TABLES and k not in ARRAYS}, ()
        )
        values |= {name: cls(**self._table(name, cls)) for name, cls in TABLES.items()}
        values |= {name: self._array(name, cls) for name, cls in ARRAYS.items()}
        self._refuse_leftovers()
        config = Config(file=self._document.path, origins=self._origins, **values)
        return self._filled(config)

    def _filled(self, config: Config) -> Config:
        """Put the names into the defaults that are made of them."""
        names = {"root": config.mqtt.root, "site": config.site, "gateway": config.gateway}
        mqtt = config.mqtt
        if self._origins["mqtt.client_id"] == "default":
            mqtt = msgspec.structs.replace(mqtt, client_id=mqtt.client_id.format(**names))
        if self._origins["mqtt.response_prefixes"] == "default":
            prefixes = tuple(prefix.format(**names) for prefix in mqtt.response_prefixes)
            mqtt = msgspec.structs.replace(mqtt, response_prefixes=prefixes)
        return msgspec.structs.replace(config, mqtt=mqtt)

    def _table(self, name: str, cls: type[msgspec.Struct]) -> dict[str, Any]:
        table = self._document.data.get(name, {})
        if not isinstance(table, dict):
            self._fail((name,), f"expected a table [{name}], came {_came(table)}")
        return self._values(cls, table, (name,))

    def _array(self, name: str, cls: type[msgspec.Struct]) -> tuple[Any, ...]:
        tables = self._document.data.get(name, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._fail((name,), f"expected tables [[{name}]], came {_came(tables)}")
        found = []
        for number, table in enumerate(tables):
            values = self._values(cls, table, (name, number))
            if cls is Route:
                values |= self._route_fields(values, number)
            found.append(cls(**values))
        return tuple(found)

    def _route_fields(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        """What a route carries beside its keys; the newest frame always stays on a `latest` route."""
        try:
            extra: dict[str, Any] = {"index": number, "filter": TopicFilter.parse(values["topic"])}
        except UsageError as error:
            self._fail(("route", number, "topic"), str(error))
        dtype = NUMPY_NAMES[values["dtype"]] if values["dtype"] else ""
        extra["profile"] = Profile(values["content_type"] or "", dtype, values["shape"] or ())
        if values["mode"] == "latest" and self._origins[f"route[{number}].on_full"] == "default":
            extra["on_full"] = "drop_oldest"
        return extra

    def _values(self, cls: type[msgspec.Struct], table: dict[str, Any], at: KeyPath) -> dict[str, Any]:
        keys = keys_of(cls)
        self._refuse_unknown(table, at, list(keys))
        values = {}
        for name, field in keys.items():
            path = (*at, name)
            if (override := self._env.pop(path, None)) is not None:
                variable, text = override
                self._origins[dotted(path)] = f"environment {variable}"
                values[name] = self._from_env(field, text, path)
            elif name in table:
                self._origins[dotted(path)] = self._document.place(path)
                values[name] = self._convert(field, table[name], path, strict=True)
            elif required(field):
                self._fail(at, f"the key `{name}` is missing: expected {takes(field)}", key=path)
            else:
                self._origins[dotted(path)] = "default"
                values[name] = self._default(field)
        return values

    def _default(self, field: FieldInfo) -> Any:
        value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        return self._folder / value if isinstance(value, Path) else value

    def _from_env(self, field: FieldInfo, text: str, path: KeyPath) -> Any:
        if is_list(field):
            self._fail(path, "a list cannot come from the environment: write it into the file")
        return self._convert(field, text, path, strict=False)

    def _convert(self, field: FieldInfo, value: Any, path: KeyPath, strict: bool) -> Any:
        cls = plain_type(field)
        try:
            if cls is None:
                return msgspec.convert(value, field.type, strict=strict)
            if not isinstance(value, str) or not value or "\0" in value:
                raise msgspec.ValidationError
            if cls is Path:
                return self._folder / value
            if cls is SecretFile:
                return SecretFile(self._folder / value)
            return cls.parse(value)
        except msgspec.ValidationError:
            self._fail(path, f"expected {takes(field)}, came {_came(value)}")
        except UsageError as error:
            self._fail(path, str(error))

    def _refuse_unknown(self, table: dict[str, Any], at: KeyPath, known: list[str]) -> None:
        for key in table:
            if key not in known:
                self._fail((*at, key), f"unknown key{_nearest(key, known)}")

    def _refuse_leftovers(self) -> None:
        for path, (variable, _) in self._env.items():
            known = [_variable(("site",)), *map(_variable, self._settable())]
            if path[0] in ARRAYS:
                raise UsageError(f"environment {variable}: [[{path[0]}]] is a list: write it into the file")
            raise UsageError(
                f"environment {variable}: no key of the configuration{_nearest(variable, known)}"
            )

    def _settable(self) -> list[KeyPath]:
        nested = [(name, key) for name, cls in TABLES.items() for key in keys_of(cls)]
        return [*((key,) for key in keys_of(Config)), *nested]

    def _fail(self, place: KeyPath, message: str, key: KeyPath | None = None) -> NoReturn:
        name = dotted(place if key is None else key)
        origin = self._origins.get(name, "")
        where = origin if origin.startswith("environment") else self._document.place(place)
        raise UsageError(f"{where}: {name}: {message}")


def dotted(path: KeyPath) -> str:
    """A key's path as text: `route[0].topic`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _variable(path: KeyPath) -> str:
    return ENV_PREFIX + "__".join(str(part).upper() for part in path)


def _nearest(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(sorted(known))}"


def _came(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    text = text if len(text) <= 80 else text[:77] + "…"
    return f"{text} ({type(value).__name__})"
