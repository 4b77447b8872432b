"""The edge gateway: frames in over MQTT, results out, every frame with one accounted fate."""
