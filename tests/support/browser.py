"""A headless Chromium, driven by its DevTools protocol over a pair of pipes.

That is what `--remote-debugging-pipe` is for: the browser reads commands from its descriptor 3 and
writes answers and events to 4, each a JSON object that ends with a zero byte. No port, no driver.
"""

import base64
import fcntl
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run"),
    *("--disable-gpu", "--disable-dev-shm-usage", "--disable-component-update"),
    *("--disable-background-networking", "--hide-scrollbars"),
]


def _pipe():
    """Make a pipe with descriptors other than the two that a browser expects."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high


class Browser:
    """One browser with one page; its size and colour scheme can be chosen."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-")
        commands, self.writer = _pipe()
        reader, answers = _pipe()
        self.pid = os.posix_spawn(
            CHROMIUM,
            [*(CHROMIUM, *OPTIONS), f"--user-data-dir={self.profile.name}", "about:blank"],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)),
                (os.POSIX_SPAWN_DUP2, commands, 3),
                (os.POSIX_SPAWN_DUP2, answers, 4),
            ],
        )
        os.close(commands)
        os.close(answers)
        self.stream = os.fdopen(reader, "rb")
        self.numbers = itertools.count(1)
        self.events = []
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self):
        """End the browser and wait for it."""
        self.session = None
        try:
            self.send("Browser.close")
        finally:
            os.close(self.writer)
            self.stream.close()
            os.waitpid(self.pid, 0)
            self.profile.cleanup()

    def send(self, method, **parameters):
        """Send a command and return its result; events that come before it are kept."""
        command = {"id": next(self.numbers), "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        data = memoryview(json.dumps(command).encode() + b"\0")
        while data:
            data = data[os.write(self.writer, data) :]
        while (answer := self._receive()).get("id") != command["id"]:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _receive(self):
        message = bytearray()
        while (byte := self.stream.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            message += byte
        return json.loads(message)

    def look(self, *, width=1200, height=900, dark=False, scale=1, touch=False):
        """Choose the window's size, the colour scheme and whether fingers point."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": scale, "mobile": touch},
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, html, path: Path):
        """Write a page to a file, load it, and return whether it says that it is drawn."""
        path.write_text(html, "utf-8")
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while not self._happened("Page.loadEventFired"):
            self.events.append(self._receive())
        return self.run("drawn")

    def _happened(self, method):
        return [event["params"] for event in self.events if event.get("method") == method]

    def requests(self):
        """Return the addresses that the page has asked for since it was opened, itself too."""
        return [event["request"]["url"] for event in self._happened("Network.requestWillBeSent")]

    def complaints(self):
        """Return what the page has thrown, logged or been refused since it was opened."""
        methods = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for method in methods for event in self._happened(method)]

    def run(self, script):
        """Return the value of an expression of JavaScript, awaited if it is a promise."""
        result = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, selector):
        """Return the text of an element as the reader sees it."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def mouse(self, x, y):
        """Move the mouse to a place in the window."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def tap(self, x, y):
        """Tap a place in the window."""
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key):
        """Press and release a key that types nothing ("Tab", "ArrowDown", ...)."""
        codes = {"Tab": 9, "Escape": 27, "End": 35, "Home": 36}
        arrows = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = (codes | arrows)[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def screenshot(self, path: Path, *, full=True):
        """Write a picture of the whole page, or of the window."""
        picture = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(picture["data"]))
