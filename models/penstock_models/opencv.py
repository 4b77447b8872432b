"""OpenCV, imported once with the limits that must be set before its import.

Its header check is only the second line of defence (`images` refuses by the header first); its own threads are off,
because the executor's threads are the parallelism; its log is off, because a corrupt file's fate is in the answer. So is
FFmpeg's, whatever the environment says, because it prints the URL of a camera with its password.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
os.environ.pop("OPENCV_FFMPEG_DEBUG", None)

cv2: Any = importlib.import_module("cv2")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # first: what follows would already log
cv2.setNumThreads(0)
