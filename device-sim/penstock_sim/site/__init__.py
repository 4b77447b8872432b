"""The broker and the gateway that a run or a demo starts, or is pointed at."""
