"""The app as a process of its own, for the browser test and for screenshots."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import ConfigError

APP = Path(__file__).resolve().parents[2] / "app.py"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
)  # fmt: skip


def find_chromium() -> str:
    """Path of an installed Chromium.

    Raises:
        ConfigError: none is on the PATH.
    """
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        raise ConfigError(f"no browser on the PATH: install one of {', '.join(CHROMIUM_NAMES)}")
    return found


@contextmanager
def running_app(*, folder: Path = APP.parent, patience: float = 60.0) -> Iterator[str]:
    """Serve the app on a free port of this machine and give its address.

    Args:
        folder: Where it runs: ``runs`` and ``docs/results`` are looked for in it.
        patience: Seconds that it may take to answer.

    Raises:
        ConfigError: it did not answer within ``patience`` seconds.
    """
    port = _free_port()
    command = [
        sys.executable, "-m", "streamlit", "run", str(APP), "--server.headless", "true",
        "--server.address", "127.0.0.1", "--server.port", str(port),
    ]  # fmt: skip
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(address, server, patience)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(address: str, server: "subprocess.Popen[bytes]", patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ConfigError(f"the app did not start on {address}: run `streamlit run {APP}` to see why")
