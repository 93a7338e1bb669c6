"""A stand-in for the hub on loopback: it keeps what is pushed, gives it back, and fails when it is told to."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field

LARGE_BYTES = 1_000
"""Files from here on are stored as large ones are, apart from the commit."""


@dataclass
class Fault:
    """What happens to the next requests of ``method`` whose path holds ``path``.

    ``status``: refused with it. ``cut_after``: so many bytes of the body are sent, then the connection ends.
    ``damage``: one byte of the file is changed.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    cut_after: int | None = None
    damage: bool = False


@dataclass
class Hub:
    """Repositories by name, each with its files; the faults still to come; the requests so far."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    commits: int = 0
    url: str = ""

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fault.path in path and fault.times:
                fault.times -= 1
                return fault
        return None


def etag(data: bytes) -> str:
    if len(data) >= LARGE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        hub, path = self.hub, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        fault = hub.fault(self.command, path)
        if fault is not None and fault.status is not None:
            return self.send(fault.status, b"", {"X-Error-Message": "out of order"})
        if found := re.fullmatch(r"/api/repos/create", path):
            name = json.loads(body)
            repository = f"{name['organization']}/{name['name']}" if name.get("organization") else f"me/{name['name']}"
            status = 409 if repository in hub.repositories else 200
            hub.repositories.setdefault(repository, {})
            return self.send_json({"url": f"{hub.url}/{repository}"}, status)
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return self.send_json({"name": "me", "orgs": []})
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/(\w+)", path):
            files = json.loads(body)["files"]
            return self.send_json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["size"] >= LARGE_BYTES else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            wanted = [
                {
                    **file,
                    **(
                        {}
                        if file["oid"] in hub.large
                        else {"actions": {"upload": {"href": f"{hub.url}/large/{file['oid']}", "header": {}}}}
                    ),
                }
                for file in objects
            ]
            return self.send_json({"transfer": "basic", "objects": wanted})
        if found := re.fullmatch(r"/large/([0-9a-f]{64})", path):
            hub.large[found[1]] = _damaged(body) if fault is not None and fault.damage else body
            return self.send(200, b"", {})
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/(\w+)", path):
            return self.commit(found[1], body)
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/revision/(\w+))?", path):
            return self.list_files(found[1])
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/(\w+)", path):
            return self.tree(found[1])
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", path):
            return self.file(found[1], found[3], fault)
        return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def commit(self, repository, body):
        files = dict(self.hub.repositories[repository])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    return self.send_json({"error": "no such object"}, 422)
                files[value["path"]] = self.hub.large[value["oid"]]
        self.hub.repositories[repository] = files
        self.hub.commits += 1
        oid = f"{self.hub.commits:040x}"
        return self.send_json({"commitOid": oid, "commitUrl": f"{self.hub.url}/{repository}/commit/{oid}"})

    def list_files(self, repository):
        files = self.hub.repositories.get(repository)
        if files is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        siblings = []
        for name, data in files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": etag(data)}
            if len(data) >= LARGE_BYTES:
                entry["lfs"] = {"sha256": etag(data), "size": len(data), "pointerSize": 100}
            siblings.append(entry)
        sha = f"{self.hub.commits:040x}"
        return self.send_json({"id": repository, "modelId": repository, "sha": sha, "siblings": siblings})

    def tree(self, repository):
        files = self.hub.repositories.get(repository)
        if files is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        entries = []
        for name, data in files.items():
            entry = {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
            if len(data) >= LARGE_BYTES:
                entry["lfs"] = {"oid": etag(data), "size": len(data), "pointerSize": 100}
            entries.append(entry)
        return self.send_json(entries)

    def file(self, repository, name, fault):
        data = self.hub.repositories.get(repository, {}).get(name)
        if data is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": f"{self.hub.commits:040x}", "Accept-Ranges": "bytes"}
        if len(data) >= LARGE_BYTES:
            headers |= {"X-Linked-Etag": f'"{etag(data)}"', "X-Linked-Size": str(len(data))}
        if fault is not None and fault.damage:
            data = _damaged(data)
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None:
            return self.send(200, data, headers, fault)
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self.send(206, data[first:], headers, fault)

    def send_json(self, value, status=200):
        return self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers, fault=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut_after is not None:
            self.wfile.write(body[: fault.cut_after])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def _damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


class StandIn:
    """``with StandIn() as hub:`` it answers at ``hub.url`` meanwhile."""

    def __enter__(self) -> Hub:
        hub = Hub()
        handler = type("Handler", (_Handler,), {"hub": hub})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return hub

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
