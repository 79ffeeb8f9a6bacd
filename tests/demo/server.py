"""A running demo, and a visitor who speaks its protocol without a browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OWN = "the preset's own"
CHOSEN = {
    "files": None, "preset": "tiny", "scale": 4, "activation": OWN, "speed": OWN, "steps": 0, "guidance": 0,
    "fidelity": 1, "color_fix": OWN, "seed": 0, "strip": "keep", "format": "png",
}  # fmt: skip
"""What the page's controls say before anybody touches them, in their order."""


@dataclass(frozen=True)
class Demo:
    """A running demo: its process and its address."""

    process: "subprocess.Popen[str]"
    address: str

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body of a page."""
        return _answer(urllib.request.Request(f"{self.address}/{path}"))

    def upload(self, name: str, data: bytes) -> tuple[int, Any]:
        """Uploads a file: the status, and the path that the server gives it or what it says."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        form = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        body = head + data + f"\r\n--{mark}--\r\n".encode()
        status, answer = _answer(urllib.request.Request(f"{self.address}/gradio_api/upload", body, form))
        return status, json.loads(answer)[0] if status == 200 else answer.decode()

    def uploaded(self, name: str, data: bytes) -> dict[str, Any]:
        """The description of a file that was uploaded."""
        status, path = self.upload(name, data)
        assert status == 200, path
        return described(path)

    def ask(self, **chosen: Any) -> tuple[str, Any]:
        """Presses the button: the last event, `complete` with all outputs or `error` with what is said of it."""
        body = json.dumps({"data": list((CHOSEN | chosen).values())}).encode()
        asked = urllib.request.Request(
            f"{self.address}/gradio_api/call/restore", body, {"Content-Type": "application/json"}
        )
        status, answer = _answer(asked)
        if status != 200:
            return f"status {status}", answer.decode()
        event = json.loads(answer)["event_id"]
        _, told = self.get(f"gradio_api/call/restore/{event}")
        lines = told.decode().strip().splitlines()
        return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))

    def file(self, output: dict[str, Any]) -> bytes:
        """The content of a file among the outputs."""
        status, data = self.get(f"gradio_api/file={output['path']}")
        assert status == 200
        return data


def described(path: str) -> dict[str, Any]:
    """A file, as the protocol describes it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@contextmanager
def demo(*arguments: str, folder: Path | None = None) -> Iterator[Demo]:
    """A demo that is ended with the block; `folder` takes what it writes for a while."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A program that a shell starts in the background ignores Ctrl-C, and so would its children.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from cassr_jax.demo import "
    code += "__main__ as demo; sys.exit(demo.main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"TMPDIR": str(folder)} if folder else {})
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--port", str(port), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if "Running on local URL" in line:
                break
        else:
            raise AssertionError("".join(said))
        yield Demo(process, f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def _answer(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
