"""The script that a user would write: paho callback, decode, model, publish. It imports nothing of penstock.

    python tests/bench/script.py RECIPE KIT PORT [THREADS]

THREADS is the runtime's intra-op setting; left out, the runtime's default.
"""

import json
import sys
from pathlib import Path

import paho.mqtt.client as mqtt
from bare import RECIPES  # type: ignore[import-not-found]
from paho.mqtt.enums import CallbackAPIVersion

recipe, kit, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
threads = int(sys.argv[4]) if len(sys.argv) > 4 else None
answer = RECIPES[recipe](kit, threads)


def on_connect(client: mqtt.Client, *_: object) -> None:
    client.subscribe("penstock/v1/script/dev/+/+/frame")


def on_message(client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
    _, _, _, _, device, stream, _ = message.topic.split("/")
    user = dict(getattr(message.properties, "UserProperty", []))
    result = {
        "v": 1,
        "device": device,
        "stream": stream,
        "boot": user.get("boot"),
        "seq": int(user.get("seq", 0)),
    }
    result |= {"status": "ok", "reason": None, "answer": answer(message.payload)}
    client.publish(message.topic.replace("/frame", "/result"), json.dumps(result))


client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_connect, client.on_message = on_connect, on_message
client.connect("127.0.0.1", port)
client.loop_forever()
