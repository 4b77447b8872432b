"""A user of Locust, a public load tool, that sends what the generator sends and waits for the same answers.

Runs in an environment of its own and imports nothing of penstock. SIM_RATE is messages a second and user, SIM_BYTES the
size of a payload, SIM_PORT the broker's.
"""

import json
import os
import time
import uuid
from typing import Any

from locust import constant_throughput, task  # type: ignore[import-not-found]
from locust.contrib.mqtt import MqttUser  # type: ignore[import-not-found]

RATE = float(os.environ["SIM_RATE"])
PADDING = "x" * max(0, int(os.environ["SIM_BYTES"]) - 100)


class Sensor(MqttUser):  # type: ignore[misc]
    port = int(os.environ["SIM_PORT"])
    wait_time = constant_throughput(RATE)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.device, self.boot, self.seq = f"locust-{uuid.uuid4().hex[:8]}", "b", 0
        self.sent: dict[int, float] = {}
        self.client.on_message = self.heard

    def on_start(self) -> None:
        deadline = time.monotonic() + 10
        while not self.client.is_connected() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.client.subscribe(f"penstock/v1/home/dev/{self.device}/s/result", qos=0)
        time.sleep(0.5)

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        self.sent[self.seq] = time.monotonic()
        frame = {"v": 1, "boot": self.boot, "seq": self.seq, "ts": int(time.time() * 1000), "data": PADDING}
        self.seq += 1
        self.client.publish(f"penstock/v1/home/dev/{self.device}/s/data", json.dumps(frame).encode())

    def heard(self, client: Any, userdata: Any, message: Any) -> None:
        began = self.sent.pop(json.loads(message.payload)["seq"], None)
        if began is not None:
            self.environment.events.request.fire(
                request_type="MQTT",
                name="answered",
                response_time=(time.monotonic() - began) * 1000,
                response_length=len(message.payload),
                exception=None,
                context={},
            )
