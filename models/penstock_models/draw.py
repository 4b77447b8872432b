"""An answer drawn on its picture: boxes, classes or a score, readable at any size of the picture.

Owns pixels only. Lines and letters grow with the picture, small pictures are enlarged first, and text stands on a
plate of its own, so that it is legible on anything.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from penstock_models.errors import UsageError
from penstock_models.images import decode_image
from penstock_models.items import Answer, Class, Detection, Outcome
from penstock_models.rejection import Rejection
from penstock_models.samples import is_picture

MIN_SIDE = 960  # pixels of the longer side; smaller pictures are enlarged
MAX_PIXELS = 50_000_000
MAX_TEXT = 40  # letters of a label
VISIBLE = 0.01  # score of a class; lower ones would only cover the picture
FEW = 8  # boxes; more get smaller letters

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
        canvas.boxes(sorted(answer.detections, key=lambda d: d.score))
    elif answer.classes is not None:
        shown = _visible(answer.classes)
        canvas.lines([_class_line(c) for c in shown] or ["no classes"], [c.score for c in shown])
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


def require_pictures(paths: Sequence[Path]) -> None:
    """Raise `UsageError` where a file is no picture, so that nothing could be drawn on it."""
    for path in paths:
        if not is_picture(path):
            raise UsageError(
                f"cannot draw on {path}: expected a JPEG, PNG or WebP picture; leave --save out to print the answer"
            )


def _upright(picture: bytes) -> Image.Image:
    """The pixels that the model was given, RGB, enlarged where they are few."""
    try:
        # Pillow would cut a 16-bit PNG off at 255; this decoder scales it, and turns what is not upright.
        image = Image.fromarray(decode_image(picture, MAX_PIXELS)[:, :, ::-1])
    except Rejection as why:
        raise UsageError(f"cannot draw: not a picture that can be drawn on: {why.detail}") from why
    factor = MIN_SIDE / max(image.size)
    if factor > 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def _visible(found: Sequence[Class]) -> Sequence[Class]:
    """The classes worth a line: the best one, and those after it that have a score to speak of."""
    return [*found[:1], *(one for one in found[1:] if one.score >= VISIBLE)]


def _class_line(found: Class) -> str:
    return f"{_short(found.label or f'class {found.index}')} {found.score:.2f}"


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _colour(label: str) -> Rgb:
    """The same colour for a label in every picture."""
    return _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class _Canvas:
    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)
        self._width, self._height = image.size
        shorter = min(image.size)
        self._line = max(2, round(shorter / 200))
        self._set_font(1.0)
        self._plates: list[Box] = []

    def _set_font(self, factor: float) -> None:
        size = min(self._height / 24, self._width / 24)
        self._font = ImageFont.load_default(size=max(14, round(size * factor)))

    def boxes(self, found: Sequence[Detection]) -> None:
        """Every box in its label's colour, the last on top; then the labels, for which there may not be room for all."""
        for detection in found:
            self._box(self._pixels(detection.box), _colour(detection.label))
        self._set_font(1.0 if len(found) <= FEW else 0.7)
        for detection in reversed(found):
            text = f"{_short(detection.label)} {detection.score:.2f}".strip()
            place = self._place(text, self._pixels(detection.box))
            if place is not None:
                self._plate(text, place, _colour(detection.label))

    def _box(self, box: Box, colour: Rgb) -> None:
        x0, y0, x1, y1 = box
        rim = max(1, self._line // 3)
        self._draw.rectangle(box, outline=_PLATE, width=self._line + 2 * rim)
        if x1 - x0 > 2 * rim and y1 - y0 > 2 * rim:
            self._draw.rectangle((x0 + rim, y0 + rim, x1 - rim, y1 - rim), outline=colour, width=self._line)

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

    def _place(self, text: str, box: Box) -> Box | None:
        """Where a label fits beside or in its box without covering another label; None where it fits nowhere."""
        width, height = self._size(text)
        x0, y0, x1, y1 = box
        for x, y in (
            (x0, y0 - height),
            (x0, y1),
            (x0, y0),
            (x1 - width, y0 - height),
            (x1 - width, y1),
            (x1, y0),
        ):
            left, top = max(0, min(x, self._width - width)), max(0, min(y, self._height - height))
            place = (left, top, left + width, top + height)
            if not any(_overlap(place, plate) for plate in self._plates):
                return place
        return None

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
