"""The demo: broker, gateway, cameras and sensors on this machine, shown live."""
