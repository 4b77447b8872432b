"""Mosquitto's own programs, as the manual shows them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.broker import Broker
from tests.fakes.clients import WAIT_S


def mosquitto_pub(broker: Broker, topic: str, path: Path, *, version: str, qos: int = 0) -> None:
    """Publish a file as the manual says: `mosquitto_pub -t TOPIC -f FILE`."""
    command = ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-V", version]
    subprocess.run([*command, "-q", str(qos), "-t", topic, "-f", str(path)], check=True, timeout=WAIT_S)


@contextmanager
def mosquitto_sub(broker: Broker, topic: str, *, version: str) -> Iterator[Callable[[], bytes]]:
    """`mosquitto_sub -C 1`, subscribed already; call what it gives for the one payload."""
    # It says on a pipe what it says, not what fills a buffer: without `-oL` the SUBACK would be seen at its end.
    command = [
        "stdbuf",
        "-oL",
        "mosquitto_sub",
        "-d",
        "-h",
        broker.host,
        "-p",
        str(broker.port),
        "-V",
        version,
    ]
    command += ["-q", "1", "-C", "1", "-W", str(int(WAIT_S)), "-F", "payload %p", "-t", topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, b"")
        assert any(b"SUBACK" in line for line in lines), "mosquitto_sub ended"

        def payload() -> bytes:
            said = next((line for line in lines if line.startswith(b"payload ")), b"")
            assert said, f"mosquitto_sub heard nothing on {topic} in {WAIT_S} s"
            return said.removeprefix(b"payload ").rstrip(b"\n")

        try:
            yield payload
        finally:
            process.kill()
