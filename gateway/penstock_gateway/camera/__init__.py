"""`penstock camera`: a real camera, or a file that plays one, becomes a stream of frames over MQTT.

`sources` opens a camera by its URL or path and always holds the newest picture; it knows nothing of MQTT, so that the
simulator can use it. `pacer` decides which picture goes out when, `publisher` sends it, `cli` is the command.
"""
