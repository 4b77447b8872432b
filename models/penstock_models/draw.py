"""An answer drawn on its picture: boxes, classes or a score, readable at any size of the picture.

Owns pixels only. Lines and letters grow with the picture, small pictures are enlarged first, and text stands on a
plate of its own, so that it is legible on anything.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from penstock_models.errors import UsageError
from penstock_models.items import Answer, Class, Detection, Outcome

MIN_SIDE = 640  # pixels of the longer side; smaller pictures are enlarged
MAX_PIXELS = 50_000_000
MAX_TEXT = 40  # letters of a label

Box = tuple[int, int, int, int]
Rgb = tuple[int, int, int]
# Okabe and Ito's colours, which stay apart for colour-blind eyes, without their black.
_COLOURS: tuple[Rgb, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_PLATE: Rgb = (24, 24, 24)


def annotate(picture: bytes, answer: Answer) -> Image.Image:
    """Draw an answer on the upright picture that it was given for.

    Args:
        picture: an encoded JPEG, PNG or WebP; of an animated one the first frame is drawn on.

    Raises:
        UsageError: the bytes are no picture, or a larger one than is drawn on.
    """
    image = _upright(picture)
    canvas = _Canvas(image)
    if answer.detections is not None:
        # The surest box is drawn last, on top.
        for detection in sorted(answer.detections, key=lambda d: d.score):
            canvas.detection(detection)
    elif answer.classes is not None:
        canvas.lines(
            [_class_line(c) for c in answer.classes] or ["no classes"], [c.score for c in answer.classes]
        )
    elif answer.anomaly is not None:
        limit = "" if answer.anomaly.threshold is None else f" (threshold {answer.anomaly.threshold:.3g})"
        canvas.lines([f"anomaly {answer.anomaly.score:.3g}{limit}"], [])
    else:
        canvas.lines([f"{n}: {t.dtype} {list(t.shape)}" for n, t in (answer.outputs or {}).items()], [])
    return image


def save(picture: bytes, answer: Answer, out: Path) -> None:
    """Write the annotated picture; the suffix of `out` says in which format.

    Raises:
        UsageError: as `annotate`; the place cannot be written or its suffix names no picture format.
    """
    image = annotate(picture, answer)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        image.save(out)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot save {out}: {error}; expected a path such as out.png or out.jpg") from error


def save_all(outcomes: Sequence[tuple[Path, Outcome]], out: Path) -> None:
    """Write the annotated pictures of a run: one to the path `out`, several into the folder `out`, as PNG.

    Raises:
        UsageError: as `save`.
    """
    answered = [(path, outcome) for path, outcome in outcomes if isinstance(outcome, Answer)]
    for index, (path, answer) in enumerate(answered):
        # Numbered, as inputs from several folders may have the same name.
        target = out if len(outcomes) == 1 else out / f"{index:03d}-{path.stem}.png"
        save(path.read_bytes(), answer, target)


def _upright(picture: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(picture)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UsageError(
                    f"the picture has {opened.width}×{opened.height} pixels, at most {MAX_PIXELS} are drawn on"
                )
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot draw: not a picture: {error}") from error
    factor = MIN_SIDE / max(image.size)
    if factor > 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def _class_line(found: Class) -> str:
    return f"{_short(found.label or f'class {found.index}')} {found.score:.2f}"


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _colour(label: str) -> Rgb:
    """The same colour for a label in every picture."""
    return _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]


class _Canvas:
    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)
        self._width, self._height = image.size
        shorter = min(image.size)
        self._line = max(2, round(shorter / 180))
        self._font = ImageFont.load_default(size=max(13, min(round(shorter / 26), round(self._width / 24))))
        self._plates: list[Box] = []

    def detection(self, found: Detection) -> None:
        """A box in its label's colour with a dark rim, and the label on a plate at its corner."""
        x0, y0, x1, y1 = self._pixels(found.box)
        colour = _colour(found.label)
        rim = max(1, self._line // 3)
        self._draw.rectangle((x0, y0, x1, y1), outline=_PLATE, width=self._line + 2 * rim)
        if x1 - x0 > 2 * rim and y1 - y0 > 2 * rim:
            self._draw.rectangle((x0 + rim, y0 + rim, x1 - rim, y1 - rim), outline=colour, width=self._line)
        text = f"{_short(found.label)} {found.score:.2f}".strip()
        self._plate(text, self._place(text, x0, y0), colour)

    def lines(self, texts: list[str], shares: list[float]) -> None:
        """Lines of text at the upper left; `shares` (0..1) are drawn as bars behind them."""
        width, height = self._size("\n".join(texts) or " ")
        row = height // max(1, len(texts))
        width = min(max(width, self._width // 3), self._width)
        for index, text in enumerate(texts):
            top = index * row
            self._draw.rectangle((0, top, width, top + row), fill=_PLATE)
            if index < len(shares):
                end = round(width * min(1.0, max(0.0, shares[index])))
                self._draw.rectangle((0, top + 1, end, top + row - 1), fill=_COLOURS[4])
            self._draw.text((self._margin, top + self._margin), text, font=self._font, fill=(255, 255, 255))

    @property
    def _margin(self) -> int:
        return self._line + 1

    def _pixels(self, box: tuple[float, float, float, float]) -> Box:
        x0, y0, x1, y1 = (min(1.0, max(0.0, v)) for v in box)
        right, low = self._width - 1, self._height - 1
        left, top = round(min(x0, x1) * right), round(min(y0, y1) * low)
        return left, top, round(max(x0, x1) * right), round(max(y0, y1) * low)

    def _size(self, text: str) -> tuple[int, int]:
        """Width and height of a plate; every line has the same height, whatever its letters."""
        rows = text.split("\n")
        ascent, descent = (
            self._font.getmetrics() if isinstance(self._font, ImageFont.FreeTypeFont) else (11, 2)
        )
        width = max(round(self._draw.textlength(row, font=self._font)) for row in rows)
        return width + 2 * self._margin, (ascent + descent + 2 * self._margin) * len(rows)

    def _place(self, text: str, x: int, y: int) -> Box:
        """A plate above the box's corner, within the picture, below plates that are there already."""
        width, height = self._size(text)
        left = max(0, min(x, self._width - width))
        top = max(0, y - height)
        for _ in self._plates:
            below = [
                p
                for p in self._plates
                if p[0] < left + width and left < p[2] and p[1] < top + height and top < p[3]
            ]
            if not below or below[-1][3] + height > self._height:
                break
            top = below[-1][3]
        return left, top, left + width, top + height

    def _plate(self, text: str, place: Box, colour: Rgb) -> None:
        self._plates.append(place)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 120
        self._draw.rectangle(place, fill=colour)
        self._draw.text(
            (place[0] + self._margin, place[1] + self._margin),
            text,
            font=self._font,
            fill=(0, 0, 0) if bright else (255, 255, 255),
        )
