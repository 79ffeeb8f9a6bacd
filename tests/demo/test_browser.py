"""The demo in a browser (needs the extra `demo`, the package playwright, and a Chromium).

With `DEMO_SCREENSHOTS=FOLDER` the pages are kept as pictures; docs/demo.md shows two of them.
"""

import importlib.util
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.demo import server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name in ("gradio", "playwright") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(
    bool(MISSING) or not CHROMIUM, reason=f"needs {', '.join([*MISSING, *([] if CHROMIUM else ['a Chromium'])])}"
)

BEE, CITRUS = (server.ROOT / "examples" / name for name in ("bee.jpg", "citrus.jpg"))
PATIENCE = 180_000  # ms: compiling takes its time


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with server.demo(folder=tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser, demo):
    """A visitor with cookies of their own, in front of the page."""
    contexts = []

    def arrive():
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(demo.address)
        page.wait_for_selector("#start")
        return page

    yield arrive
    for context in contexts:
        context.close()


def bring(page, *files: Path) -> None:
    page.set_input_files("#files input[type=file]", [str(file) for file in files])
    for file in files:
        page.wait_for_selector(f"#files :text('{file.stem}')")


def finish(page) -> str:
    page.wait_for_function("document.querySelector('#status').innerText.includes('100 %: done')", timeout=PATIENCE)
    return page.inner_text("#status")


def keep(page, name: str) -> bytes:
    shot = page.screenshot()
    if "DEMO_SCREENSHOTS" in os.environ:
        Path(os.environ["DEMO_SCREENSHOTS"], name).write_bytes(shot)
    return shot


def columns(data: bytes, box) -> np.ndarray:
    """The mean colour of each column of a part of the page."""
    with Image.open(io.BytesIO(data)) as shot:
        part = shot.convert("RGB").crop((box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]))
        return np.asarray(part, np.float32).mean(axis=0)


def test_a_photograph_is_restored_compared_and_downloaded(visitor, tmp_path):
    page = visitor()
    keep(page, "demo_before.png")
    bring(page, BEE)
    page.click("#start")
    assert finish(page) == "100 %: done"
    page.wait_for_selector("#slider img")
    assert page.locator("#slider img").count() >= 2
    assert page.locator("#reference img").count() == page.locator("#invented img").count() == 1

    keep(page, "demo.png")
    box = page.locator("#slider img").first.bounding_box()
    handle = page.locator("#slider [role=slider], #slider .handle, #slider .outer").first.bounding_box()
    before = columns(page.screenshot(), box)
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - box["width"] / 3, y, steps=8)
    page.mouse.up()
    moved = page.locator("#slider [role=slider], #slider .handle, #slider .outer").first.bounding_box()
    assert moved["x"] < handle["x"] - box["width"] / 5
    assert np.abs(columns(page.screenshot(), box) - before).max() > 1  # another part of the result is seen

    with page.expect_download() as downloading:
        page.locator("#results a[download]").first.click()
    downloading.value.save_as(tmp_path / "bee.png")
    with Image.open(tmp_path / "bee.png") as result:
        assert result.size == (640, 512)
    assert page.wrong == []
    page.locator(":text('More')").first.click()
    page.locator("#reference").scroll_into_view_if_needed()
    keep(page, "demo_more.png")
    page.click("#start")  # what is shown now is the preset's own
    page.wait_for_function("!document.querySelector('#status').innerText.includes('done')")
    assert finish(page) == "100 %: done"


def test_an_example_can_be_tried(visitor):
    page = visitor()
    page.locator(":text('citrus.jpg')").first.click()
    page.wait_for_selector("#files :text('citrus')")
    page.click("#start")
    assert finish(page) == "100 %: done"


def test_a_bad_file_is_told_and_the_page_goes_on(visitor, tmp_path):
    bad = tmp_path / "broken.png"
    bad.write_bytes(BEE.read_bytes()[:100])
    page = visitor()
    bring(page, bad)
    page.click("#start")
    status = finish(page)
    assert "broken.png" in status
    assert "Traceback" not in status
    page.click("#start")  # and once more, without a reload
    finish(page)
    page.reload()
    page.wait_for_selector("#start")
    page.click("#start")
    page.wait_for_selector(":text('no picture was given')")


def test_two_visitors_at_once_get_their_own_pictures(visitor, tmp_path):
    pages = [visitor(), visitor()]
    for page, photograph in zip(pages, (BEE, CITRUS), strict=True):
        bring(page, photograph)
    for page in pages:
        page.click("#start")
    sizes = []
    for number, page in enumerate(pages):
        finish(page)
        with page.expect_download() as downloading:
            page.locator("#results a[download]").first.click()
        downloading.value.save_as(tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as result:
            sizes.append((downloading.value.suggested_filename, result.size))
    assert sizes == [("bee.png", (640, 512)), ("citrus.png", (512, 384))]
