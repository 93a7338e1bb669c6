"""A stand-in for the hub on loopback: it keeps what is pushed, gives it back, and fails when it is told to."""

import base64
import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from bertwright.model.hub_transfer import checksums

LARGE_BYTES = 1_000
"""Files from here on are stored as large ones are, apart from the commit."""

_NAME = r"([\w.-]+/[\w.-]+)"


@dataclass
class Fault:
    """What happens to the next requests of ``method`` whose path holds ``path``, but for the first ``spared``.

    ``status``: refused with it, and with the hub's ``code`` for the reason. ``cut_after``: so many bytes are read of
    what is sent (PUT, POST) or written of what is asked for (GET), then the connection ends, with ``reset`` abruptly.
    ``unanswered``: done, but the connection ends in place of an answer. ``damage``: one byte of the file is changed.
    ``body``: answered with it, as by a login page that stands before all others.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    code: str | None = None
    cut_after: int | None = None
    reset: bool = False
    unanswered: bool = False
    damage: bool = False
    body: bytes | None = None
    spared: int = 0

    def __str__(self) -> str:
        what = [self.status, self.cut_after and f"cut after {self.cut_after}", self.body]
        what += [name for name in ("reset", "unanswered", "damage") if getattr(self, name)]
        return " ".join([self.method, self.path, *(str(part) for part in what if part)])


@dataclass
class Hub:
    """Models' files by repository, data sets' files by repository and revision; the faults still to come; the requests
    so far, each with the part of the file that it asks for. ``large`` holds large files by the name that they were
    sent under, their SHA-256, which nobody compares with what came. With ``xet`` large files are offered in the way of
    hf_xet, by a store that answers nothing."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    data_sets: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    data_set_commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    visibility: dict[str, str] = field(default_factory=dict)
    default_visibility: str = "public"
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    commits: int = 0
    url: str = ""
    xet: bool = False

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fault.path in path and fault.times:
                if fault.spared:
                    fault.spared -= 1
                    continue
                fault.times -= 1
                return fault
        return None


def etag(data: bytes) -> str:
    if len(data) >= LARGE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def xet_hash(data: bytes) -> str:
    """Another name than its SHA-256."""
    return hashlib.sha256(data[::-1]).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    fault: Fault | None = None
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
        asked_for = self.headers.get("Range")
        hub.asked.append(f"{self.command} {path}" + (f" {asked_for}" if asked_for else ""))
        self.fault = hub.fault(self.command, path)
        num_bytes = int(self.headers.get("Content-Length") or 0)
        if num_bytes and self.fault is not None and self.fault.cut_after is not None:
            self.rfile.read(min(num_bytes, self.fault.cut_after))
            return self.cut()
        body = self.rfile.read(num_bytes)
        if self.fault is not None and self.fault.status is not None:
            code = {"X-Error-Code": self.fault.code} if self.fault.code else {}
            return self.send(self.fault.status, b"", {"X-Error-Message": "out of order", **code})
        if self.fault is not None and self.fault.body is not None:
            return self.send(200, self.fault.body, {})
        if found := re.fullmatch(r"/api/repos/create", path):
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return self.send_json({"name": "me", "orgs": []})
        if found := re.fullmatch(rf"/api/models/{_NAME}/preupload/(\w+)", path):
            return self.preupload(found[1], json.loads(body)["files"])
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
            hub.large[found[1]] = self.as_it_comes(body)
            return self.send(200, b"", {})
        if found := re.fullmatch(rf"/api/models/{_NAME}/commit/(\w+)", path):
            return self.commit(found[1], body)
        if found := re.fullmatch(rf"/api/models/{_NAME}(/revision/(\w+))?", path):
            return self.list_files(found[1])
        if found := re.fullmatch(rf"/api/models/{_NAME}/tree/(\w+)", path):
            return self.tree(found[1])
        if found := re.fullmatch(rf"/{_NAME}/resolve/(\w+)/(.+)", path):
            return self.file(hub.repositories.get(found[1], {}), found[3], f"{hub.commits:040x}")
        if found := re.fullmatch(rf"/api/datasets/{_NAME}/revision/(.+)", path):
            return self.list_data_set(found[1], found[2])
        if found := re.fullmatch(rf"/datasets/{_NAME}/resolve/([0-9a-f]{{40}})/(.+)", path):
            return self.file(hub.data_set_commits.get(found[2], {}), found[3], found[2])
        if path == "/xet-token":
            store = {
                "X-Xet-Cas-Url": f"{hub.url}/xet",
                "X-Xet-Access-Token": "t",
                "X-Xet-Token-Expiration": "9999999999",
            }
            return self.send(200, b"", store)
        if path.startswith("/xet/"):
            return self.send(403, b"", {})
        return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def create(self, asked):
        owner = asked.get("organization") or "me"
        repository = f"{owner}/{asked['name']}"
        if repository in self.hub.repositories:
            return self.send_json({"url": f"{self.hub.url}/{repository}"}, 409)
        self.hub.repositories[repository] = {}
        self.hub.visibility[repository] = asked.get("visibility") or self.hub.default_visibility
        return self.send_json({"url": f"{self.hub.url}/{repository}"})

    def preupload(self, repository, files):
        held = self.hub.repositories.get(repository, {})
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE_BYTES else "regular",
                "shouldIgnore": False,
                "oid": etag(held[file["path"]]) if file["path"] in held else None,
            }
            for file in files
        ]
        return self.send_json({"files": answers})

    def commit(self, repository, body):
        files = dict(self.hub.repositories[repository])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = self.as_it_comes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    return self.send_json({"error": "no such object"}, 422)
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
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
        return self.send_json(
            {
                "id": repository,
                "modelId": repository,
                "sha": f"{self.hub.commits:040x}",
                "private": self.hub.visibility.get(repository) == "private",
                "siblings": siblings,
            }
        )

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

    def list_data_set(self, repository, revision):
        revisions = self.hub.data_sets.get(repository)
        if revisions is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in revisions:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        commit = hashlib.sha1(repr(revisions[revision]).encode(), usedforsecurity=False).hexdigest()
        self.hub.data_set_commits[commit] = dict(revisions[revision])
        siblings = [{"rfilename": name} for name in revisions[revision]]
        return self.send_json({"id": repository, "sha": commit, "siblings": siblings})

    def file(self, files, name, commit):
        data = files.get(name)
        if data is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(data) >= LARGE_BYTES:
            headers |= {"X-Linked-Etag": f'"{etag(data)}"', "X-Linked-Size": str(len(data))}
            if self.hub.xet:
                headers |= {"X-Xet-Hash": xet_hash(data), "X-Xet-Refresh-Route": f"{self.hub.url}/xet-token"}
        data = self.as_it_comes(data)
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None:
            return self.send(200, data, headers)
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self.send(206, data[first:], headers)

    def as_it_comes(self, data: bytes) -> bytes:
        if self.fault is None or not self.fault.damage:
            return data
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    def send_json(self, value, status=200):
        return self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers):
        if self.fault is not None and self.fault.unanswered:
            return self.cut()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.fault is not None and self.fault.cut_after is not None:
            self.wfile.write(body[: self.fault.cut_after])
            self.wfile.flush()
            return self.cut()
        self.wfile.write(body)
        return None

    def cut(self):
        self.close_connection = True
        if self.fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments):
        pass


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


@contextmanager
def taken_for_the_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A stand-in that huggingface_hub takes for the hub in this process, with a cache of its own and no waiting."""
    with StandIn() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield hub


@contextmanager
def xet_that_works(hub: Hub, monkeypatch: pytest.MonkeyPatch, files: list[bytes]) -> Iterator[list[str]]:
    """Large files of the stand-in come by hf_xet, whose own work is done here; which ones did, by their hashes."""
    by_hash, came = {xet_hash(data): data for data in files}, []

    def get(*, incomplete_path, xet_file_data, **_):
        came.append(xet_file_data.file_hash)
        Path(incomplete_path).write_bytes(by_hash[xet_file_data.file_hash])

    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_DISABLE_XET", False)
        patched.setattr(huggingface_hub.file_download, "xet_get", get)
        hub.xet = True
        yield came


def is_whole(cache: Path) -> bool:
    """No file of the cache that has its name holds anything else."""
    blobs = [path for path in cache.glob("*--*/blobs/*") if not path.name.endswith(".incomplete")]
    return all(path.name in checksums(path) for path in blobs)
