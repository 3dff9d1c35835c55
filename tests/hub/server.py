"""Server: as much of the Hub's API, on the loopback address, as huggingface_hub and datasets use.

It serves the folders ROOT/models/ORG/NAME and ROOT/datasets/ORG/NAME, and has the faults that one
asks for.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from hub.repository import DATE, Repository, branches, etag

API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|paths-info|refs|commits|auth-check)(?:/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?)?"
)
FILE = re.compile(
    r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
PERSONAL = (
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "LMMS_EVAL_",
    "OPENAI_",
    "AZURE_",
    "API_TYPE",
)
"""Beginnings of variables of the environment by which whoever runs a program names caches, hubs,
logins and judges of their own.
"""
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Faults:
    """What is wrong with a hub; nothing is, as it stands.

    `gates` holds, by repository, the tokens that open it. Requests whose path matches `failing` are
    answered with `status`, the first `times` of them where that is a number. After `requests` of
    them the hub is gone, and it takes `delay_s` over each.
    """

    gates: dict[str, frozenset[str]] = field(default_factory=dict)
    failing: str = ""
    status: int = 503
    times: int | None = None
    requests: int | None = None
    delay_s: float = 0.0


class Refusal(Exception):
    """A request that is answered with an error; `code` is the Hub's word for it."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Server:
    """A hub in a thread of this process, for as long as the `with` lasts."""

    def __init__(self, root: Path, faults: Faults | None = None, port: int = 0) -> None:
        self.root = root
        self.faults = faults if faults is not None else Faults()
        self.log: list[str] = []
        """A line a request: method, path and status."""
        self._lock = threading.Lock()
        self._failures = 0
        self._count = 0
        self._down = False
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.hub = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def stop(self) -> None:
        """Go down: from now on nobody listens."""
        with self._lock:
            if self._down:
                return
            self._down = True
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path, token: str | None = "hf_tester") -> dict[str, str]:
        """This process's environment for one whose hub this is, with its caches under `home`."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(PERSONAL)}
        names = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        return {**kept, **names, **({} if token is None else {"HF_TOKEN": token})}

    def admit(self, path: str) -> None:
        """Count a request, and raise what the hub's faults make of it."""
        faults = self.faults
        time.sleep(faults.delay_s)
        with self._lock:
            self._count += 1
            is_gone = faults.requests is not None and self._count > faults.requests
            fails = bool(faults.failing) and re.search(faults.failing, path) is not None
            fails = fails and (faults.times is None or self._failures < faults.times)
            self._failures += fails
        if is_gone:
            # not here: a server cannot wait for its own requests to end
            threading.Thread(target=self.stop, daemon=True).start()
            raise ConnectionAbortedError
        if fails:
            raise Refusal(faults.status, "the hub is not well")

    def repository(self, kind: str, name: str, revision: str, token: str) -> Repository:
        """A repository at a branch or commit; raises Refusal as the Hub refuses."""
        tokens = self.faults.gates.get(name)
        if tokens is not None and token not in tokens:
            text = f"Access to {kind[:-1]} {name} is restricted."
            raise Refusal(403 if token else 401, text, "GatedRepo")
        named = branches(self.root, kind, name)
        if not named:
            # strangers are not told what is not there; clients know that by the address, but only
            # where it begins with https
            status = 404 if token else 401
            raise Refusal(status, "Repository not found", "RepoNotFound")
        for branch, repository in named.items():
            if revision in (branch, repository.commit):
                return repository
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    hub: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that goes away is no concern of a test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *words: Any) -> None:
        """Nothing: `Server.log` has it."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        path = unquote(url.path)
        try:
            self.server.hub.admit(path)
            self._route(path, parse_qs(url.query), body)
        except ConnectionAbortedError:
            self.close_connection = True
        except Refusal as error:
            headers = {"X-Error-Message": str(error)}
            if error.code:
                headers["X-Error-Code"] = error.code
            self._json({"error": str(error)}, error.status, headers)

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        hub = self.server.hub
        if path == "/api/whoami-v2":
            if not self._token:
                raise Refusal(401, "Invalid username or password.")
            self._json({"type": "user", "name": "tester", "orgs": [], "auth": {}})
        elif match := API.fullmatch(path):
            place = (match["kind"], match["name"], match["revision"] or "main")
            repository = hub.repository(*place, self._token)
            recursive = query.get("recursive", [""])[0].lower() in ("true", "1")
            self._describe(repository, match["what"], match["path"] or "", recursive, body)
        elif match := FILE.fullmatch(path):
            kind = "datasets" if match["kind"] else "models"
            repository = hub.repository(kind, match["name"], match["revision"], self._token)
            self._file(repository, match["path"])
        else:
            raise Refusal(404, f"no page {path}")

    def _describe(
        self, repository: Repository, what: str | None, path: str, recursive: bool, body: bytes
    ) -> None:
        """Answer a question about a repository."""
        if what == "refs":
            named = branches(self.server.hub.root, repository.kind, repository.name)
            refs = []
            for name, branch in named.items():
                ref = {"name": name, "ref": f"refs/heads/{name}", "targetCommit": branch.commit}
                refs.append(ref)
            self._json({"branches": refs, "converts": [], "tags": [], "pullRequests": []})
        elif what == "commits":
            commit = {"id": repository.commit, "title": "all", "date": DATE}
            self._json([{**commit, "message": "", "authors": []}])
        elif what == "paths-info":
            content = parse_qs(body.decode())
            paths = json.loads(body)["paths"] if body.startswith(b"{") else content.get("paths", [])
            there = [one for one in paths if (repository.folder / one).exists()]
            self._json([repository.entry(one) for one in there])
        elif what == "tree":
            if not (repository.folder / path).is_dir():
                raise Refusal(404, f"{path} does not exist", "EntryNotFound")
            self._json(repository.tree(path, recursive))
        else:
            self._json(repository.info())

    def _file(self, repository: Repository, path: str) -> None:
        """Answer with a file or the part of it that is asked for."""
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if path not in repository.files():
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._json({"error": "Entry not found"}, 404, {**headers, **missing})
            return
        file = repository.folder / path
        content, status = file.read_bytes(), 200
        if match := RANGE.fullmatch(self.headers.get("Range") or ""):
            size, start = len(content), int(match[1])
            content, status = content[start : int(match[2] or size) + 1], 206
            headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{size}"
        headers["ETag"] = f'"{etag(file)}"'
        self._send(content, status, {"Content-Type": "application/octet-stream", **headers})

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(json.dumps(content).encode(), status, {**kind, **(headers or {})})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.server.hub.log.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
