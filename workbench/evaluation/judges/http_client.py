"""One JSON request to an HTTP service that may be busy, slow or broken.

What passes by itself (a time-out, a refused connection, 408, 429, 5xx) is tried again after a
pause that doubles, or after what ``Retry-After`` says; everything else is an answer. Requests of
all threads keep a common distance. The key is read from an environment variable at every request
and stands in nothing else: no message, no record, no ``repr``; redirects are not followed, since
they would carry it elsewhere.
"""

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message as Headers

from workbench.errors import ConfigError

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LARGEST_ANSWER = 4 * 2**20
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServiceConfig:
    """How a service is asked.

    Attributes:
        timeout: seconds without a byte after which a request is given up.
        attempts: tries of one request.
        first_pause: seconds before the second try; doubled before each later one.
        longest_pause: most seconds of one pause, whatever the service asks for.
        requests_per_minute: of all threads together; 0 for no limit.
        key_variable: the environment variable that holds the key; unset or empty, none is sent.
    """

    timeout: float = 60.0
    attempts: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0
    requests_per_minute: float = 0.0
    key_variable: str = "SVGT_JUDGE_API_KEY"

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be above 0, got {self.timeout}")
        if self.attempts < 1:
            raise ConfigError(f"attempts must be at least 1, got {self.attempts}")
        if min(self.first_pause, self.longest_pause, self.requests_per_minute) < 0:
            raise ConfigError("pauses and requests_per_minute must not be negative")


@dataclass(frozen=True)
class Failure:
    """A request that got no answer.

    Attributes:
        reason: what happened, without secrets.
        status: the HTTP status of the last try, None where the service was not reached.
    """

    reason: str
    status: int | None = None


@dataclass(eq=False)
class Service:
    """A JSON service at one address; safe to share between threads.

    Raises:
        ConfigError: The address is no http(s) URL, holds a password, or would carry the key over
            an unencrypted connection to another machine.
    """

    url: str
    config: ServiceConfig = field(default_factory=ServiceConfig)
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _next_start: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"'{self.url}' is no address: it must begin with https:// or http://")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "the address must hold no password and no query: the key belongs into the "
                f"environment variable {self.config.key_variable}"
            )
        if self._key() and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise ConfigError(
                f"{self.config.key_variable} is set, and {self.url} is not encrypted: use https://"
            )

    def post(self, body: Mapping[str, object]) -> object | Failure:
        """Send a JSON object and give the parsed answer, or why there is none.

        Raises:
            ConfigError: The service refuses the key (401, 403) or knows no such address (404).
        """
        data = json.dumps(body).encode("utf-8")
        pause = self.config.first_pause
        outcome: object | Failure = Failure("not tried")
        for attempt in range(self.config.attempts):
            if attempt:
                self.sleep(min(pause, self.config.longest_pause))
                pause *= 2
            self._wait_for_turn()
            outcome, asked_for = self._try(data)
            if not isinstance(outcome, Failure) or not _passes(outcome):
                break
            pause = pause if asked_for is None else max(asked_for, 0.0)
        return outcome

    def _try(self, data: bytes) -> tuple[object | Failure, float | None]:
        """One try: its outcome, and the pause that the service asks for."""
        try:
            with _OPENER.open(self._request(data), timeout=self.config.timeout) as answer:
                content = answer.read(_LARGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            with error:
                self._refuse_for_good(error.code)
                reason = f"the service answers {error.code} {error.reason}"
                return Failure(reason, error.code), _retry_after(error.headers)
        except TimeoutError:
            return Failure(f"no answer within {self.config.timeout:g} s"), None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            return self._unreached(error), None
        return _parsed(content), None

    def _unreached(self, error: Exception) -> Failure:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            return Failure(f"no answer within {self.config.timeout:g} s")
        return Failure(f"the service cannot be reached ({type(cause).__name__})")

    def _request(self, data: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return urllib.request.Request(self.url, data=data, headers=headers, method="POST")

    def _key(self) -> str:
        key = os.environ.get(self.config.key_variable, "").strip()
        if not key.isascii() or any(ord(character) < 33 for character in key):
            raise ConfigError(f"{self.config.key_variable} holds characters that no key has")
        return key

    def key_hint(self) -> str:
        """What to say of the key where it may be what is missing; nothing where one is sent."""
        if self._key():
            return ""
        return (
            "; no key was sent: where the service wants one, set the environment variable "
            f"{self.config.key_variable}"
        )

    def _refuse_for_good(self, status: int) -> None:
        variable = f"the environment variable {self.config.key_variable}"
        if status in (401, 403) and self._key():
            raise ConfigError(
                f"{self.url} refuses the key in {variable} ({status}): set it to a valid one"
            )
        if status in (401, 403):
            raise ConfigError(f"{self.url} wants a key ({status}): set {variable} to one")
        if status == 404 or 300 <= status < 400:
            raise ConfigError(
                f"{self.url} answers {status}: give the address that '/chat/completions' is "
                f"appended to, and a model that it serves{self.key_hint()}"
            )

    def _wait_for_turn(self) -> None:
        if not self.config.requests_per_minute:
            return
        with self._lock:
            now = self.clock()
            start = max(now, self._next_start)
            self._next_start = start + 60.0 / self.config.requests_per_minute
        if start > now:
            self.sleep(start - now)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *arguments: object, **named: object) -> None:
        """Never go on; the redirect itself becomes the answer."""
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _passes(failure: Failure) -> bool:
    return failure.status is None or failure.status in _PASSING


def _parsed(content: bytes) -> object | Failure:
    if len(content) > _LARGEST_ANSWER:
        return Failure("the answer is larger than 4 MiB", 200)
    try:
        parsed: object = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return Failure("the answer is not JSON", 200)
    return parsed


def _retry_after(headers: Headers) -> float | None:
    """Seconds that the service asks to wait: a number, or a date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return float(value) if float(value) >= 0 else None
    except ValueError:
        pass
    try:
        return (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
