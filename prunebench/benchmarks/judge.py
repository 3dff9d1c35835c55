"""Judge: tasks whose answers a language model reads behind an OpenAI-compatible address, and how
that is asked.

The address and its key are lmms-eval's own environment variables. Many tasks take a judge that does
not answer for a wrong answer, or guess; here such a score is none.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from prunebench.border.text import one_line

CLIENTS = re.compile(
    r"^(openai|anthropic|reka|dashscope|google\.generativeai|google\.genai|azure\.ai|azure\.identity)"
    r"(\.|$)"
    r"|^lmms_eval\.llm_judge\.(get_server|.*Provider|.*Server)"
    r"|^(requests|httpx)(\.api)?\.post$"
    r"|^aiohttp(\.client)?\.ClientSession$"
)
"""Full names that only code which asks a judge mentions."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "async_openai": ("OPENAI_API_KEY",),
    "azure": ("AZURE_API_KEY", "AZURE_ENDPOINT"),
    "async_azure": ("AZURE_API_KEY", "AZURE_ENDPOINT"),
}
"""By lmms-eval's API_TYPE the variables without which it asks nobody."""

PLACES = ("OPENAI_API_URL", "OPENAI_BASE_URL")
"""Where a judge is that is not OpenAI's."""

STANDIN = "no-key"
"""A key for loading: clients that are built with a task's module refuse to be built without one."""

NO_KEYS = ("", STANDIN, "YOUR_API_KEY", "EMPTY")
"""What stands for a key where nobody has set one."""

CHAT = "/chat/completions"

CLASSES = (
    ("requests", "Session", "send"),
    ("httpx", "Client", "send"),
    ("httpx", "AsyncClient", "send"),
    ("aiohttp", "ClientSession", "_request"),
)
"""What sends every request of the libraries that judges are asked through; aiohttp has no public
method for all of them.
"""

Before = Callable[[str], str]
"""Told of an address that is asked, it gives the right one."""

Behind = Callable[[int | None, str], None]
"""Told of an HTTP status, or of what went wrong instead."""

PATIENCE = 3
"""Calls of a judge that has never answered, behind which it is given up."""


class NoJudge(BaseException):
    """A task asks a judge that is not there. No `Exception`, for tasks catch those and go on with a
    guess.
    """


class Unsent(BaseException):
    """A task sends answers to a server that is not the user's. No `Exception`, for tasks catch
    those and try again.
    """


def asks(names: Iterable[str]) -> bool:
    """Whether functions that reach these names ask a judge."""
    return any(CLIENTS.search(name) for name in names)


def missing(environment: Mapping[str, str] = os.environ) -> str:
    """What a judge lacks for being asked; empty where one is configured.

    A server of one's own may take any key, so its address is enough.
    """
    kind = environment.get("API_TYPE", "openai").lower()
    if "azure" not in kind and any(environment.get(name) for name in PLACES):
        return ""
    keys = KEYS.get(kind, ())
    return " and ".join(key for key in keys if environment.get(key, "") in NO_KEYS)


def refusal(task: str) -> str:
    """Why a task with a judge cannot be scored here, in one line; empty where it can."""
    lacking = missing()
    if not lacking:
        return ""
    return (
        f"{one_line(task, 80)} is scored by a judge, and none is configured: set {lacking}, "
        "OPENAI_API_URL where it is not OpenAI's, and MODEL_VERSION for the model"
    )


@contextlib.contextmanager
def loadable() -> Iterator[None]:
    """Let task modules load that build their judge's client at once, without a key as well.

    Of OPENAI_API_URL and OPENAI_BASE_URL, of which tasks read the one or the other, the missing one
    is taken from the other.
    """
    before = dict(os.environ)
    for key in ("OPENAI_API_KEY", "AZURE_API_KEY", "AZURE_OPENAI_API_KEY"):
        os.environ.setdefault(key, STANDIN)
    url = os.environ.get("OPENAI_API_URL") or os.environ.get("OPENAI_BASE_URL")
    if url:
        os.environ.setdefault("OPENAI_API_URL", url)
        os.environ.setdefault("OPENAI_BASE_URL", base(url))
    try:
        yield
    finally:
        for key in set(os.environ) - set(before):
            if key.startswith(("OPENAI_", "AZURE_")):
                del os.environ[key]


def base(url: str) -> str:
    """The address as a client takes it: without the path of chat completions."""
    return url.rstrip("/").removesuffix(CHAT).rstrip("/")


def corrected(url: str, configured: str) -> str:
    """Where a request to a judge belongs: some tasks add the path of chat completions to the
    configured address, others take it for whole.
    """
    start = base(configured)
    if not start or not url.startswith(start):
        return url
    rest = url.removeprefix(start).strip("/")
    if rest == "" or set(rest.split("/")) == {"chat", "completions"}:
        return start + CHAT
    return url


@dataclass
class Calls:
    """How often a judge was asked, and answered."""

    requests: int = 0
    answers: int = 0
    fault: str = ""

    def silent(self) -> str:
        """Why nothing that was made of its answers counts; empty where it did answer."""
        if self.requests and not self.answers:
            return f"the judge does not answer: {self.fault}"
        return ""


@contextlib.contextmanager
def watched(task: str) -> Iterator[Calls]:
    """Count what is asked of a judge in the block; raises NoJudge where none is configured, or
    where it never answers.
    """
    calls = Calls()
    reason = refusal(task)
    configured = os.environ.get("OPENAI_API_URL") or os.environ.get("OPENAI_BASE_URL") or ""

    def before(url: str) -> str:
        if reason:
            raise NoJudge(reason)
        if calls.requests >= PATIENCE and not calls.answers:
            raise NoJudge(calls.silent())
        calls.requests += 1
        return corrected(url, configured)

    def behind(status: int | None, fault: str) -> None:
        if status is not None and status < 400:
            calls.answers += 1
        else:
            calls.fault = fault or f"HTTP status {status}"

    def counting(module: str, send: Callable[..., Any]) -> Callable[..., Any]:
        if module == "aiohttp":
            return _addressed(send, configured, before, behind)
        kind = _awaited if inspect.iscoroutinefunction(send) else _counting
        return kind(send, configured, before, behind)

    with _replaced(counting):
        yield calls


@contextlib.contextmanager
def sealed() -> Iterator[None]:
    """Let nothing out in the block: what sends a request raises Unsent."""

    def refusing(_module: str, send: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(send)
        def refused(*_args: Any, **_kwargs: Any) -> Any:
            raise Unsent("a request of the task's own")

        return refused

    with _replaced(refusing):
        yield


@contextlib.contextmanager
def _replaced(wrapper: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Put `wrapper` around what sends requests, given the library's name and the method."""
    with contextlib.ExitStack() as stack:
        for module, name, method in CLASSES:
            with contextlib.suppress(ImportError):
                owner = getattr(__import__(module), name)
                send = getattr(owner, method)
                stack.callback(setattr, owner, method, send)
                setattr(owner, method, wrapper(module, send))
        yield


def _counting(
    send: Callable[..., Any], configured: str, before: Before, behind: Behind
) -> Callable[..., Any]:
    """A client's `send` that tells of every request to a judge."""

    @wraps(send)
    def counting(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_judge(str(request.url), configured):
            return send(client, request, *args, **kwargs)
        with _request_told(request, before, behind):
            response = send(client, request, *args, **kwargs)
        behind(response.status_code, "")
        return response

    return counting


def _awaited(
    send: Callable[..., Any], configured: str, before: Before, behind: Behind
) -> Callable[..., Any]:
    """The same for a client that is awaited."""

    @wraps(send)
    async def counting(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_judge(str(request.url), configured):
            return await send(client, request, *args, **kwargs)
        with _request_told(request, before, behind):
            response = await send(client, request, *args, **kwargs)
        behind(response.status_code, "")
        return response

    return counting


def _addressed(
    send: Callable[..., Any], configured: str, before: Before, behind: Behind
) -> Callable[..., Any]:
    """The same for aiohttp, which is given a method and an address in place of a request."""

    @wraps(send)
    async def counting(client: Any, method: str, address: Any, *args: Any, **kwargs: Any) -> Any:
        # a session may have an address of its own, to which those of its requests are added
        url = str(client._build_url(address))
        if not _is_judge(url, configured):
            return await send(client, method, address, *args, **kwargs)
        place = before(url)
        with _failure_told(behind):
            response = await send(client, method, place, *args, **kwargs)
        behind(response.status, "")
        return response

    return counting


@contextlib.contextmanager
def _request_told(request: Any, before: Before, behind: Behind) -> Iterator[None]:
    """Send the request of the block where `before` says, and tell `behind` where it fails."""
    _redirect(request, before)
    with _failure_told(behind):
        yield


@contextlib.contextmanager
def _failure_told(behind: Behind) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        behind(None, _said_by(error))
        raise


def _redirect(request: Any, before: Before) -> None:
    url = str(request.url)
    place = before(url)
    if place != url:
        # requests keeps a text here, httpx an address of its own type
        request.url = type(request.url)(place)


def _said_by(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 150)


def _is_judge(url: str, configured: str) -> bool:
    """Whether a request goes to a judge, and not to a data hub."""
    start = base(configured)
    if start and url.startswith(start):
        return True
    host = url.partition("://")[2].partition("/")[0]
    return "openai" in host or "anthropic" in host or url.rstrip("/").endswith(CHAT)
