"""The cloud tier's floor: it owns the inference API that the gateway calls. Its rooms arrive with the cloud tier."""
