"""A local server with OpenAI's chat completions API that paraphrases postcards, and fails on request."""

import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from local_server import running

from gendiv_lightning.toy.captions import new_caption, parse


def reword(body):
    """Paraphrases of a postcard's caption, by the seed of the request."""
    request = json.loads(body["messages"][-1]["content"])
    length = {"1 to 12": "short", "13 to 40": "medium", "41 to 80": "long"}[request["words"]]
    rng, stated, texts = random.Random(f"{body['seed']} {request['caption']}"), parse(request["caption"]), []
    for _ in range(request["number"]):
        known = {request["caption"], *request["there already"], *texts}
        texts.append(new_caption(stated, length, rng, known) or request["caption"])
    return json.dumps({"paraphrases": texts})


class ChatServer(ThreadingHTTPServer):
    """Answers with `content(body)`, a text or a whole completion, after the next of `faults`, if any is left.

    A fault is a function of the handler, which may or may not answer.
    """

    daemon_threads = True

    def __init__(self, content=reword, faults=(), seconds=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.faults, self.seconds = content, list(faults), seconds
        self.lock = threading.Lock()
        self.asked, self.answered, self.at_once, self.most_at_once = Counter(), Counter(), 0, 0
        self.bodies, self.times, self.keys = [], [], set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # clients that were killed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server, size = self.server, int(self.headers["Content-Length"])
        content = self.rfile.read(size)
        if len(content) < size:  # the client was killed while it sent the request
            self.close_connection = True
            return
        text = content.decode()
        with server.lock:
            server.asked[text] += 1
            server.bodies.append(json.loads(text))
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            fault = server.faults.pop(0) if server.faults else None
        try:
            time.sleep(server.seconds)
            if fault is not None:
                fault(self)
            else:
                content = server.content(json.loads(text))
                self.reply(content if content.startswith('{"id"') else completion(content))
                with server.lock:
                    server.answered[text] += 1
        finally:
            with server.lock:
                server.at_once -= 1

    def reply(self, body, status=200, headers=(), length=None, kind="application/json"):
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if length is not None:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


def completion(content, finish="stop", tokens=None):
    """A completion; `tokens` are the log-probabilities of first tokens by text, None reports none."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    if tokens is not None:
        likeliest = [{"token": token, "logprob": value, "bytes": None} for token, value in tokens.items()]
        first = {"token": content, "logprob": max(tokens.values(), default=0), "bytes": None}
        choice["logprobs"] = {"content": [{**first, "top_logprobs": likeliest}]}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return json.dumps(whole)


def status(number, **headers):
    error = json.dumps({"error": {"message": f"fault {number}", "type": "fault"}})
    return lambda handler: handler.reply(error, number, [(k.replace("_", "-"), v) for k, v in headers.items()])


def silence(handler):
    """Do not answer for longer than any client waits."""
    time.sleep(1.0)
    handler.close_connection = True


def trickle(handler):
    """Send a byte now and then: no wait is long, but the answer never ends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "400")
    handler.end_headers()
    for _ in range(12):
        handler.wfile.write(b" ")
        time.sleep(0.1)
    handler.close_connection = True


def hang_up(handler):
    handler.close_connection = True


def broken_json(handler):
    handler.reply(completion("[]")[:-7])


def a_page(handler):
    handler.reply("<html>502</html>", kind="text/html")


def other_json(handler):
    handler.reply('{"choices": []}')


def other_content(handler):
    handler.reply(completion([{"type": "text", "text": "[]"}]))


def truncated(handler):
    handler.reply(completion("[]")[:40], length=400)


FAULTS = {
    "429": status(429, Retry_After="0"),
    "500": status(500),
    "503": status(503),
    "silence": silence,
    "trickle": trickle,
    "hang up": hang_up,
    "broken json": broken_json,
    "a page": a_page,
    "other json": other_json,
    "other content": other_content,
    "truncated": truncated,
}


def serving(**settings):
    return running(ChatServer(**settings))
