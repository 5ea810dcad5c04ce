"""Headless Chromium by its DevTools protocol, over a pipe: what a page looks like to a browser."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


class Browser:
    """One tab. `events` holds everything that it said of its own accord."""

    def __init__(self, profile):
        ours, self.commands = os.pipe()
        self.answers, theirs = os.pipe()
        ours, theirs = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours, theirs))  # clear of 3 and 4
        line = f'exec "$@" 3<&{ours} 4>&{theirs}'
        self.process = subprocess.Popen(
            ["bash", "-c", line, "bash", str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(ours, theirs),
            stderr=subprocess.DEVNULL,
        )
        for end in (ours, theirs):
            os.close(end)
        self.events, self.buffer, self.number, self.session = [], b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """The result of a command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path, width, scheme):
        """Load a file in a window of a width, light or dark; events start anew."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=f"file://{path}")
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def press(self, key, text=""):
        """Press a key, such as "Tab", and release it."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowRight": 39}[key]
        told = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **told)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def evaluate(self, expression, wait=False):
        """The value of an expression in the page, of a promise its outcome."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def said(self, *methods):
        """Events of some kinds."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    def screenshot(self):
        """PNG of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self):
        """End the process."""
        self.session = None
        self.call("Browser.close")
        self.process.wait(timeout=20)
        for end in (self.commands, self.answers):
            os.close(end)

    def _read(self, timeout=60):
        deadline = time.monotonic() + timeout
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser says nothing"
            read = os.read(self.answers, 1 << 20)
            assert read, "the browser has ended"
            self.buffer += read
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)
