"""Every view paints; with SLUICE_PICTURES=1 the pictures of the docs are made anew.

Beside them lies a digest of what they were made from: when the page or the scene has changed since,
a test says that they are stale.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import time
import zlib
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from sluice.collector.routes import PAGE
from tests.collector.page import scene as scene_module
from tests.collector.page.scene import STORY, scene

pytestmark = pytest.mark.xdist_group("page")

IMAGES = Path(__file__).parents[3] / "docs" / "images"
VIEWS = {
    "now": ("/", "#workers tbody tr"),
    "tasks": ("/?view=tasks", "#tasks tr[data-id]"),
    "task": (f"/?view=task&id={STORY}", "#timeline .track"),
    "failures": ("/?view=failures", "#failures tbody tr"),
    "names": ("/?view=names", "#names tbody tr"),
}
MADE_FROM = IMAGES / "made-from.txt"
#: A page of docs is read over slow lines, too.
MOST_BYTES = 100_000


#: A picture's size, its palette, and the place in it of each pixel.
INDEXED = """async (png) => {
  const bytes = Uint8Array.from(atob(png), (one) => one.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(bitmap, 0, 0);
  const pixels = new Uint32Array(canvas.getImageData(0, 0, width, height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const colours = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
  const rgb = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  const palette = [];
  const nearest = new Map(colours.map((colour) => [colour, [Infinity, 0]]));
  while (palette.length < Math.min(256, colours.length)) {
    // First the commonest; then what is both common and far from all that is there.
    const worth = (colour) => nearest.get(colour)[0] * counts.get(colour) ** 0.5;
    const best = palette.length < 64 ? colours[palette.length]
      : colours.reduce((a, b) => (worth(b) > worth(a) ? b : a));
    const [R, G, B] = rgb(best);
    for (const colour of colours) {
      const [r, g, b] = rgb(colour);
      const off = (r - R) ** 2 + (g - G) ** 2 + (b - B) ** 2;
      if (off < nearest.get(colour)[0]) nearest.set(colour, [off, palette.length]);
    }
    palette.push([R, G, B]);
  }
  let indices = "";
  for (const pixel of pixels) indices += String.fromCharCode(nearest.get(pixel)[1]);
  return { width, height, palette: palette.flat(), indices: btoa(indices) };
}"""


def digest() -> str:
    """Of all that decides what a picture shows: the page, and what is on it."""
    sources = [*sorted(PAGE.iterdir()), Path(scene_module.__file__), Path(__file__)]
    whole = hashlib.sha256()
    for source in sources:
        whole.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return whole.hexdigest()


def take(page: Page, name: str) -> None:
    """The picture, written only where that was asked for; a page that is blank has none."""
    picture = page.screenshot(animations="disabled")
    assert len(picture) > 20_000, name
    if os.environ.get("SLUICE_PICTURES") == "1":
        IMAGES.mkdir(exist_ok=True)
        picture = squeezed(page.context.browser, picture)
        assert len(picture) < MOST_BYTES, (name, len(picture))
        (IMAGES / f"{name}.png").write_bytes(picture)
        MADE_FROM.write_text(f"{digest()}\n")


def squeezed(browser: Browser, png: bytes) -> bytes:
    """The same picture with a palette: its 256 weightiest colours, and the nearest for others."""
    blank = browser.new_page()
    answer = blank.evaluate(INDEXED, base64.b64encode(png).decode())
    blank.close()
    width, height, palette = answer["width"], answer["height"], bytes(answer["palette"])
    indices = base64.b64decode(answer["indices"])
    rows = b"".join(b"\0" + indices[at : at + width] for at in range(0, width * height, width))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return png[:8] + b"".join(
        struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def test_the_pictures_of_the_docs_are_of_this_page():
    names = {f"{view}-{theme}" for view in VIEWS for theme in ("light", "dark")} | {"tasks-phone"}
    assert {path.stem for path in IMAGES.glob("*.png")} == names
    if os.environ.get("SLUICE_PICTURES") != "1":
        assert MADE_FROM.read_text().strip() == digest(), (
            "docs/images are stale:"
            " SLUICE_PICTURES=1 scripts/test tests/collector/page/test_pictures.py"
        )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_paints(theme, one, visit):
    one.post_events(scene(time.time()))
    page = visit(one, color_scheme=theme)
    for view, (path, there) in VIEWS.items():
        page.goto(one.url + path)
        expect(page.locator(there).first).to_be_visible()
        expect(page.locator("#connection")).to_have_attribute("data-state", "live")
        expect(page.locator("#kept")).to_contain_text("tasks kept")
        take(page, f"{view}-{theme}")


def test_a_phone_shows_tasks_as_cards(one, visit):
    one.post_events(scene(time.time()))
    page = visit(one, "/?view=tasks", viewport={"width": 360, "height": 720})
    row = page.locator("#tasks tr[data-id]").first
    expect(row).to_be_visible()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    expect(page.locator("#kept")).to_contain_text("tasks kept")
    assert row.bounding_box()["height"] == 60
    take(page, "tasks-phone")
