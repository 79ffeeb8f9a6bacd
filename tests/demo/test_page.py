"""The demo as a server: what it answers, what it refuses, and how many visitors it bears (needs the extra `demo`)."""

import importlib.util
import io
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.demo import server

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs the extra `demo`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def demo(folder):
    with server.demo("--max-megabytes", "1", "--max-megapixels", "1", "--max-pictures", "3", folder=folder) as running:
        yield running


def encoded(seed: int = 0, width: int = 12, height: int = 10, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(file, format)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def test_two_pictures_are_restored_and_can_be_downloaded(demo):
    files = [demo.uploaded("a.png", encoded(0)), demo.uploaded("b.png", encoded(1, 14))]
    event, outputs = demo.ask(files=files, format="tiff16")
    assert event == "complete"
    status, slider, reference, shown, _, results = outputs
    assert status == "100 %: done"
    assert [Path(result["path"]).name for result in results] == ["a.tif", "b.tif"]
    assert [pixels(demo.file(result)).shape for result in results] == [(40, 48, 3), (40, 56, 3)]
    before, after = slider
    assert pixels(demo.file(before)).shape == pixels(demo.file(after)).shape == (40, 56, 3)  # the last one
    assert pixels(demo.file(reference)).shape[:2] == pixels(demo.file(shown)).shape[:2] == (40, 56)


def test_a_bad_request_is_told_and_costs_nothing_else(demo):
    good = demo.uploaded("good.png", encoded())
    bad = demo.uploaded("bad.jpg", b"<svg onload=alert(1)>")
    event, outputs = demo.ask(files=[bad, good])
    assert event == "complete"
    assert "**bad.jpg: not a picture that can be read" in outputs[0]
    assert len(outputs[-1]) == 1
    for chosen, message in (
        ({"files": []}, "no picture was given"),
        ({"files": [good] * 4}, "4 pictures were given, expected at most 3"),
        ({"files": [good], "steps": -1}, "Value -1 is less than minimum value 0"),
        ({"files": [good], "guidance": -1}, "Value -1 is less than minimum value 0"),
        ({"files": [good], "format": "exe"}, "exe"),
        ({"files": [good], "preset": "/etc"}, "/etc"),
        ({"files": [good], "scale": 1000}, "Value 1000 is greater than maximum value 4"),
        ({"files": [good], "seed": 2**70}, "seed is 1180591620717411303424, expected"),
        ({"files": "good.png"}, ""),
    ):
        event, said = demo.ask(**chosen)
        assert event == "error", (chosen, said)
        assert message in str(said), said
        assert "Traceback" not in str(said)
    assert demo.ask(files=[good])[0] == "complete"


def test_limits_hold(demo):
    status, said = demo.upload("large.png", bytes(1_100_000))
    assert (status, "maximum" in said or "large" in said.lower()) == (413, True)
    event, outputs = demo.ask(files=[demo.uploaded("wide.png", encoded(0, 300, 300))])
    assert event == "complete"
    assert "1200x1200 px, expected at most 1 megapixels" in outputs[0]
    assert outputs[-1] == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{root}/README.md", "../../../etc/passwd", "{root}/cassr_jax/assets/tiny/cassr.json"]
)
def test_no_file_of_the_server_can_be_read(demo, path):
    path = path.format(root=server.ROOT)
    status, _ = demo.get(f"gradio_api/file={path}")
    assert status in (403, 404)
    event, said = demo.ask(files=[server.described(path)])
    assert event == "error"
    assert said == {"error": None}  # not even whether it is there


def test_nothing_is_left_beside_what_can_be_downloaded(demo, folder):
    demo.ask(files=[demo.uploaded("a.png", encoded())])
    assert list(folder.glob("cassr-*")) == []


def test_fifty_visitors_at_once(demo):
    def visit(number: int) -> bytes:
        event, outputs = demo.ask(files=[demo.uploaded(f"{number}.png", encoded(number))], seed=5)
        assert event == "complete", outputs
        (result,) = outputs[-1]
        assert Path(result["path"]).name == f"{number}.png"
        return pixels(demo.file(result)).tobytes()

    with ThreadPoolExecutor(50) as visitors:
        found = list(visitors.map(visit, range(50)))
    assert len(set(found)) == 50
    for number in (0, 37):  # each got the picture that it brought
        assert visit(number) == found[number]


def test_who_comes_to_a_full_queue_is_told(folder):
    with server.demo("--queue", "2", folder=folder) as small, ThreadPoolExecutor(12) as visitors:
        file = small.uploaded("a.png", encoded())
        answers = list(visitors.map(lambda _: small.ask(files=[file]), range(12)))
        events = [event for event, _ in answers]
        assert "complete" in events
        refused = [said for event, said in answers if event != "complete"]
        assert refused
        assert all("full" in str(said).lower() for said in refused)
        assert small.ask(files=[file])[0] == "complete"


def test_ctrl_c_ends_it():
    with server.demo() as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(10) in (0, 130)
