"""Virtual devices: synthetic scenes and signals, file sources, an open-loop publisher, the demo."""
