"""A bucket on this machine: as much of Google's storage interface as gcsfs, TensorStore and Orbax use."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

NAME = "bucket"
OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)$")
COPY = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)$")


@dataclass
class Store:
    """Whole objects by name, each with the number of the write that made it."""

    objects: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    writes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, data: bytes) -> dict:
        self.writes += 1
        self.objects[name] = self.writes, data
        return self.about(name)

    def about(self, name: str) -> dict:
        generation, data = self.objects[name]
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        times = {"timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z"}
        size = {"size": str(len(data)), "md5Hash": md5, "generation": str(generation), "metageneration": "1"}
        return {"kind": "storage#object", "bucket": NAME, "name": name} | size | times

    def listed(self, prefix: str, delimiter: str) -> dict:
        below = sorted(name for name in self.objects if name.startswith(prefix))
        ends = {name: name.find(delimiter, len(prefix)) if delimiter else -1 for name in below}
        folders = sorted({name[: end + 1] for name, end in ends.items() if end >= 0})
        return {"items": [self.about(name) for name in below if ends[name] < 0], "prefixes": folders}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_):
        """Requests are not worth a line."""

    def do(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.store.lock:
            self.answer(url.path, dict(parse_qsl(url.query)), body)

    do_GET = do_POST = do_PUT = do_DELETE = do

    def answer(self, path: str, asked: dict[str, str], body: bytes) -> None:
        store, method = self.store, self.command
        if method == "POST" and path.startswith("/batch/"):
            self.batch(body)
        elif path.startswith("/session/"):
            self.chunk(path, body)
        elif path == f"/upload/storage/v1/b/{NAME}/o":
            self.upload(asked, body)
        elif path == f"/storage/v1/b/{NAME}":
            self.send(200, {"kind": "storage#bucket", "id": NAME, "name": NAME})
        elif path == f"/storage/v1/b/{NAME}/o":
            self.send(200, store.listed(asked.get("prefix", ""), asked.get("delimiter", "")))
        elif found := COPY.match(path):
            source, target = unquote(found[2]), unquote(found[4])
            if source not in store.objects:
                self.send(404)
            else:
                self.send(200, {"done": True, "resource": store.put(target, store.objects[source][1])})
        elif (found := OBJECT.match(path)) and found[1] == NAME:
            self.one(method, unquote(found[2]), asked)
        else:
            self.send(404)

    def one(self, method: str, name: str, asked: dict[str, str]) -> None:
        generation, data = self.store.objects.get(name, (0, b""))
        if asked.get("ifGenerationMatch") not in (None, str(generation)):
            self.send(412)
        elif not generation:
            self.send(404)
        elif method == "DELETE":
            del self.store.objects[name]
            self.send(204)
        elif asked.get("ifGenerationNotMatch") == str(generation):
            self.send(304)
        elif asked.get("alt") != "media":
            self.send(200, self.store.about(name))
        else:
            headers = {"x-goog-generation": str(generation), "x-goog-stored-content-length": str(len(data))}
            part = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
            if part is None:
                self.send(200, data, headers)
                return
            first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
            if first > last:
                self.send(416)
                return
            self.send(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def upload(self, asked: dict[str, str], body: bytes) -> None:
        kind, name = asked["uploadType"], asked.get("name", "")
        if kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            about, data = message_from_bytes(head + body, policy=HTTP).iter_parts()
            name, body = json.loads(about.get_payload(decode=True))["name"], data.get_payload(decode=True)
        generation = self.store.objects.get(name, (0, b""))[0]
        if asked.get("ifGenerationMatch") not in (None, str(generation)):
            self.send(412)
        elif kind == "resumable":
            name = json.loads(body).get("name", name)
            path = f"/session/{len(self.store.uploads)}"
            self.store.uploads[path] = name, b""
            self.send(200, b"", {"Location": f"http://{self.headers['Host']}{path}"})
        else:
            self.send(200, self.store.put(name, body))

    def chunk(self, path: str, body: bytes) -> None:
        name, before = self.store.uploads[path]
        self.store.uploads[path] = name, before + body
        whole = self.headers["Content-Range"].partition("/")[2]
        if whole == str(len(before + body)):
            self.send(200, self.store.put(name, before + body))
        else:
            self.send(308, b"", {"Range": f"bytes=0-{len(before + body) - 1}"})

    def batch(self, body: bytes) -> None:
        """Removes the objects that a request of many parts names."""
        answers = []
        for path in re.findall(rb"DELETE (\S+) HTTP", body):
            found = OBJECT.match(urlsplit(path.decode()).path)
            removed = found is not None and self.store.objects.pop(unquote(found[2]), None) is not None
            status = f"HTTP/1.1 {204 if removed else 404} X"
            answers.append(f"--b\r\nContent-Type: application/http\r\n\r\n{status}\r\n\r\n\r\n")
        self.send(200, ("".join(answers) + "--b--").encode(), {"Content-Type": "multipart/mixed; boundary=b"})

    def send(self, status: int, content: bytes | dict = b"", headers: dict[str, str] | None = None) -> None:
        if isinstance(content, dict):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json"}
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def served() -> Iterator[dict[str, str]]:
    """A block in which gs://bucket is there for processes with these variables."""
    handler = type("HandlerOfOne", (Handler,), {"store": Store()})
    server = ThreadingHTTPServer(("localhost", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # who asks may hang up before the answer
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://localhost:{server.server_address[1]}"
    try:
        yield {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
