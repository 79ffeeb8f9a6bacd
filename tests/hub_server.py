"""A hub on this machine: as much of the Hugging Face Hub's interface as huggingface_hub uses to upload and to fetch."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Hub:
    """Repositories, each with its files and whether it is private; objects of git LFS by their SHA-256.

    Unless it `stores`, it refuses to take objects. While `pace` is not set, every file stops in its middle, and then
    `sending` is set.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    stores: bool = True
    pace: threading.Event = field(default_factory=threading.Event)
    sending: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.pace.set()

    address: str = ""

    def commit_of(self, name: str) -> str:
        """The commit that a repository is at: a hash of its contents."""
        digest = hashlib.sha1(name.encode())
        for path, data in sorted(self.repositories[name].items()):
            digest.update(path.encode() + hashlib.sha256(data).digest())
        return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        """Requests are not worth a line."""

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if self.command in ("POST", "PUT") and "/objects/" not in path and not self._known():
            self.send(401, {"error": "Invalid username or password."})
            return
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.send(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            self.preupload(json.loads(body))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.batch(json.loads(body))
        elif found := re.fullmatch(r"/objects/(\w+)", path):
            self.hub.objects[found[1]] = body
            self.send(200 if self.hub.stores else 507, {})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/\w+)?", path):
            self.about(found[1], tree="/tree/" in path)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self.file(found[1], found[3])
        else:
            self.send(404, {"error": f"{self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = do

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def create(self, wanted: dict) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            self.send(409, {"error": "You already created this model repo", **url})
            return
        self.hub.repositories[name] = {}
        self.hub.private[name] = bool(wanted.get("private")) or wanted.get("visibility") == "private"  # 2.x
        self.send(200, url)

    def preupload(self, wanted: dict) -> None:
        def mode(path: str) -> str:
            return "lfs" if path.endswith(".safetensors") else "regular"

        files = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in wanted["files"]]
        self.send(200, {"files": files})

    def batch(self, wanted: dict) -> None:
        objects = [
            o | {"actions": {"upload": {"href": f"{self.hub.address}/objects/{o['oid']}"}}} for o in wanted["objects"]
        ]
        self.send(200, {"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")

    def commit(self, name: str, lines: list[dict]) -> None:
        files = self.hub.repositories[name]
        for line in lines:
            match line:
                case {"key": "header", "value": {"summary": summary}}:
                    self.hub.commits.append(summary)
                case {"key": "file", "value": {"path": path, "content": content}}:
                    files[path] = base64.b64decode(content)
                case {"key": "lfsFile", "value": {"path": path, "oid": oid}}:
                    files[path] = self.hub.objects[oid]
        oid = self.hub.commit_of(name)
        url = f"{self.hub.address}/{name}/commit/{oid}"
        self.send(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def about(self, name: str, *, tree: bool) -> None:
        if name not in self.hub.repositories or (self.hub.private[name] and not self._known()):
            self.send(404, {"error": "Repository not found"}, code="RepoNotFound")
            return
        files = self.hub.repositories[name]
        if tree:
            self.send(200, [{"type": "file", "path": p, "size": len(d), "oid": ""} for p, d in files.items()])
            return
        siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
        self.send(200, {"id": name, "modelId": name, "sha": self.hub.commit_of(name), "siblings": siblings})

    def file(self, name: str, path: str) -> None:
        data = self.hub.repositories.get(name, {}).get(path)
        if data is None:
            self.send(404, {"error": "Entry not found"}, code="EntryNotFound")
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.hub.commit_of(name))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2])
            if not self.hub.pace.is_set():
                self.hub.sending.set()
                self.hub.pace.wait()
            with suppress(ConnectionError):  # whoever waited may have gone
                self.wfile.write(data[len(data) // 2 :])

    def send(self, status: int, content: object, kind: str = "application/json", code: str = "") -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    handler = type("Handler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
