"""A small local replacement for the service of Weights & Biases: it accepts runs, or fails, or never answers."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "local-" + "5ec4e7" * 7  # what must never be printed
RUN = {
    "id": "cnVu",
    "description": "",
    "config": "{}",
    "project": {"id": "cA==", "name": "gendiv", "entity": {"id": "ZQ==", "name": "team"}},
    "historyLineCount": 0,
}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Ignore clients that have disconnected."""


class Service:
    """The service, in a thread.

    Attributes:
        mode: "works", "fails" (an error for every request) or "hangs"; it may be changed at any time.
        fails_after: name of a request after whose first answer the mode becomes `then`.
        asked: names of the queries so far, in order.
        runs: variables of the mutations that make or change a run.
        files: names of files that were uploaded.
        reports: specs of reports that were saved.
        streamed: history and summary that were sent.
    """

    def __init__(self, mode="works"):
        self.mode, self.fails_after, self.then = mode, None, "hangs"
        self.asked, self.runs, self.files, self.reports, self.streamed = [], [], [], [], ""
        service, self.ended = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if service.mode == "hangs":
                    service.ended.wait()
                    self.close_connection = True
                    return
                status, answer = (500, {}) if service.mode == "fails" else (200, service.answer(self.path, body))
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST

            def log_message(self, *_):
                """Log nothing."""

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path, body):
        if path.startswith("/upload/"):
            self.files.append(path.removeprefix("/upload/"))
        if path.endswith("/file_stream"):
            self.streamed += body.decode()
        if path != "/graphql":
            return {}
        asked = json.loads(body)
        name, given = asked.get("operationName", ""), asked.get("variables", {})
        self.asked.append(name)
        if name == self.fails_after:
            threading.Timer(0.2, lambda: setattr(self, "mode", self.then)).start()
        return {"data": self._data(name, given, asked["query"])}

    def _data(self, name, given, query):
        if "viewer" in query:
            viewer = {"id": "dg==", "entity": "team", "username": "me", "name": "me", "email": "", "flags": "{}"}
            viewer |= {"admin": False, "deletedAt": None, "teams": {"edges": []}, "apiKeys": {"edges": []}}
            return {"viewer": viewer}
        if name == "UpsertBucket":
            self.runs.append(given)
            return {"upsertBucket": {"bucket": {**RUN, "name": given["name"], "displayName": "x"}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in given["files"]]
            return {"createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": files}}
        if name == "CreateArtifact":  # "committed": nothing of it is to be uploaded
            artifact = {"id": "YQ==", "state": "COMMITTED", "artifactSequence": {"id": "cw==", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if "query ArtifactType" in query or "query ProjectArtifact" in query:
            return {"project": None}
        if name == "RunResumeStatus":
            return {"model": {"id": "cA==", "name": "gendiv", "entity": {"id": "ZQ==", "name": "team"}, "bucket": None}}
        if "models(" in query:
            return {"models": {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}}
        if "upsertView" in query:
            self.reports.append(json.loads(given["spec"]))
            view = {"id": "dmlldw==", "displayName": given["displayName"], "spec": given["spec"], "type": "runs"}
            return {"upsertView": {"view": {**view, "name": given["name"], "description": ""}}}
        return {}


def closed_port():
    """An address without a server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
