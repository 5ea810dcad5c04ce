"""A local server with the part of the Hugging Face Hub API that streaming a dataset needs."""

import hashlib
import json
import os
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from local_server import running

SHA = "5ca1ab1e" * 5


class HubServer(ThreadingHTTPServer):
    """Serves a folder as the dataset `name`; `fetched` counts the bytes sent of each file."""

    daemon_threads = True

    def __init__(self, name, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.folder = name, folder
        self.fetched, self.asked = Counter(), []

    @property
    def environment(self):
        """Environment of a process that uses this server as the Hub, with its own caches."""
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HOME": str(self.folder.parent / "hf")}
        return {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | own

    def handle_error(self, request, client_address):
        pass  # clients that disconnect early


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, parts = self.server, urlsplit(self.path)
        server.asked.append(f"{self.command} {self.path}")
        path, api, files = unquote(parts.path), f"/api/datasets/{server.name}", f"/datasets/{server.name}/resolve/"
        if path in (api, f"{api}/revision/{SHA}", f"{api}/revision/main"):
            names = [{"rfilename": entry["path"]} for entry in self.listing() if entry["type"] == "file"]
            info = {"id": server.name, "sha": SHA, "siblings": names, "cardData": {"license": "mit"}, "private": False}
            self.reply(json.dumps(info).encode())
        elif path.startswith(f"{api}/tree/"):
            below = server.folder / path.removeprefix(f"{api}/tree/").partition("/")[2]
            inside = below.rglob("*") if parse_qs(parts.query).get("recursive") == ["true"] else below.glob("*")
            self.reply(json.dumps([self.entry(path) for path in sorted(inside)]).encode())
        elif path.startswith(files):
            self.send_file(path.removeprefix(files).partition("/")[2])
        else:
            self.reply(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(f"POST {self.path} {body}")
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        self.reply(json.dumps([entry for entry in self.listing() if entry["path"] in asked]).encode())

    def listing(self):
        return [self.entry(path) for path in sorted(self.server.folder.rglob("*"))]

    def entry(self, path):
        name = path.relative_to(self.server.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": SHA}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}

    def send_file(self, name):
        path = self.server.folder / name
        if not path.is_file():
            self.reply(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        requested = self.headers.get("Range")
        if requested is None:
            self.reply(data, 200, headers, name)
            return
        start, _, last = requested.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(data), len(data))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self.reply(data[int(start) : end], 206, headers, name)

    def reply(self, data, status=200, headers=(), name=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.server.fetched[name] += len(data)
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def serving(name, folder):
    return running(HubServer(name, folder))
