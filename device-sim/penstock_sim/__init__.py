"""Virtual devices: scenes and signals, file sources, a publisher, scenarios, the demo; and the kit for real devices."""
