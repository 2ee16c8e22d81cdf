"""A headless Chromium for tests, driven by its DevTools protocol through two pipes: no driver, no further package."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(sys.prefix) / "browser"  # of this environment
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
HOW_TO_INSTALL = (
    "Install npm, or a Chromium (`apt-get install chromium`), or name one in the environment variable CHROMIUM; then "
    "run `make test` again."
)
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
SWITCHES = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--mute-audio", "--autoplay-policy=no-user-gesture-required", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-default-browser-check",
    "--disable-features=Translate,MediaRouter,OptimizationHints",
)  # fmt: skip


def find_chromium():
    """Path of the browser: what CHROMIUM names, the one that `make test` has installed, or the system's; else None."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, (named,) if named else (str(FOLDER / "chromium"), *NAMES))), None)


def browser_is_required():
    """Whether tests in the browser must not be left out: continuous integration sets CI."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def its_environment():
    """Variables for the browser, which finds the libraries that came with it."""
    libraries = [str(FOLDER / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))}


class BrowserError(AssertionError):
    """The browser refuses a command, or the page throws."""


class Browser:
    """One page of a headless Chromium.

    Attributes:
      problems: errors on the console, exceptions, and breaches of the security policy.
      requests: addresses that the page has asked for.
    """

    def __init__(self, profile):
        found = find_chromium()
        if found is None:
            raise RuntimeError(f"The tests of the report need Chromium. {HOW_TO_INSTALL}")
        ends = [os.pipe(), os.pipe()]
        theirs = [fcntl.fcntl(ends[0][0], fcntl.F_DUPFD, 20), fcntl.fcntl(ends[1][1], fcntl.F_DUPFD, 20)]
        command = [sys.executable, "-c", LAUNCH, *map(str, theirs), found, *SWITCHES]
        self._log = (Path(profile) / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"], pass_fds=theirs, stdout=self._log,
            stderr=self._log, stdin=subprocess.DEVNULL, env=its_environment(),
        )  # fmt: skip
        for end in (*theirs, ends[0][0], ends[1][1]):
            os.close(end)
        self._to, self._from = ends[0][1], ends[1][0]
        self._numbers, self._buffer, self._session = itertools.count(1), b"", None
        self._answers = {}
        self.problems, self.requests, self.events = [], [], []
        pages = [one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self):
        for end in (self._to, self._from):
            os.close(end)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def send(self, method, **parameters):
        """Run a command of the protocol; returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while number not in self._answers:
            self._listen(deadline - time.monotonic())
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path, hash_=""):
        """Open a file and wait until its script has run."""
        self.send("Page.navigate", url="about:blank")
        self.requests.clear()
        self.send("Page.navigate", url=path.resolve().as_uri() + hash_)
        self.wait("document.documentElement?.dataset.ready === 'true'")

    def run(self, expression):
        """Evaluate JavaScript, promises too; returns its value."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise BrowserError(f"{expression}: {details.get('exception', {}).get('description', details['text'])}")
        return found["result"].get("value")

    def wait(self, expression, seconds=30):
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(expression):
            if time.monotonic() > deadline:
                raise BrowserError(f"not within {seconds} s: {expression}; problems: {self.problems}")
            time.sleep(0.05)

    def go(self, hash_):
        """Follow a link within the page."""
        self.run(f"location.hash = {json.dumps(hash_)}")
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def press(self, key):
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            code = {"Enter": 13, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}[key]
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def look(self, width=1280, height=900, dark=False):
        """Set the size of the window and the theme."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=theme)

    def shot(self, path, whole=True):
        """A picture of the page."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _listen(self, seconds):
        if seconds <= 0 or not select.select([self._from], [], [], seconds)[0]:
            raise BrowserError(f"Chromium does not answer; see {self._log.name}.")
        part = os.read(self._from, 1 << 20)
        if not part:
            raise BrowserError(f"Chromium has ended; see {self._log.name}.")
        *messages, self._buffer = (self._buffer + part).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message.get("params", {}))

    def _note(self, method, event):
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(part.get("value", part.get("description"))) for part in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
