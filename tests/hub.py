"""A Hugging Face hub on 127.0.0.1, and a tiny GPT-2 to put on it: loading by name is tested without a network.

`LocalHub` answers what huggingface_hub asks for when it resolves, lists and downloads a model, in the real hub's way:
a commit and an ETag with every file, weights moved to another origin (the CDN) under their SHA-256, a renamed repo as
a redirect, and an X-Error-Code with every refusal.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

WEIGHTS = (".safetensors", ".bin", ".gguf", ".model")  # what the real hub keeps in LFS

REPO = r"(?P<repo>[^/?]+(?:/[^/?]+)?)"
RESOLVE = re.compile(rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>[^?]+)(?:\?.*)?")
INFO = re.compile(rf"/api/models/{REPO}(?:/revision/(?P<revision>[^/?]+))?(?:\?(?P<query>.*))?")
TREE = re.compile(rf"/api/models/{REPO}/tree/(?P<revision>[^/?]+)/?(?P<path>[^?]*)(?:\?.*)?")
CDN = re.compile(r"/cdn/(?P<sha256>[0-9a-f]{64})")


class Request(NamedTuple):
    """One request that the hub answered."""

    method: str
    path: str
    status: int


class Reply(NamedTuple):
    """What the hub answers: GET sends `body`, HEAD only its length."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class File:
    """A file of a repo, with the two hashes under which the hub knows it."""

    content: bytes
    in_lfs: bool

    @property
    def oid(self) -> str:
        """Git's blob id: the ETag of a small file."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        """The LFS id: the ETag of weights."""
        return hashlib.sha256(self.content).hexdigest()

    def listing(self, oid: str, lfs_oid: str) -> dict[str, Any]:
        """Size and hashes as a listing shows them, under the names that this listing uses for the hashes."""
        size = len(self.content)
        lfs = {"lfs": {lfs_oid: self.sha256, "size": size, "pointerSize": 130}} if self.in_lfs else {}
        return {"size": size, oid: self.oid} | lfs


@dataclass(frozen=True)
class Repo:
    """A repo at its only commit."""

    files: dict[str, File] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        """A hash of names and contents, so that two different folders never share a commit."""
        return hashlib.sha1("".join(f"{path} {f.oid}\n" for path, f in self.files.items()).encode()).hexdigest()


class RefusedError(Exception):
    """A request that the hub refuses, with the real hub's status and code."""

    def __init__(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(code)
        message = {"X-Error-Code": code, "X-Error-Message": code}
        self.reply = Reply(status, message | (headers or {}), json.dumps({"error": code}).encode())


class LocalHub:
    """`with LocalHub() as hub: hub.add("gpt2", folder)`; then start a process with `HF_ENDPOINT=hub.endpoint`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.gated: set[str] = set()  # repos that list their files and refuse their content
        self._repos: dict[str, Repo] = {}
        self._moved: dict[str, str] = {}
        # The CDN is a second port: huggingface_hub treats a redirect to another origin differently from one at home.
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self)) for _ in ("hub", "cdn")]
        self.endpoint, self._cdn = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, repo_id: str, folder: Path, moved_from: str | None = None) -> None:
        """Serve `folder` as `repo_id`; requests for `moved_from` are redirected to it (`gpt2` on the real hub)."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self._repos[repo_id] = Repo(
            {p.relative_to(folder).as_posix(): File(p.read_bytes(), p.name.endswith(WEIGHTS)) for p in paths}
        )
        if moved_from:
            self._moved[moved_from] = repo_id

    def downloads(self) -> list[str]:
        """The paths of the files whose content went out, in order."""
        return [r.path for r in self.requests if r.method == "GET" and r.status == 200 and "/api/" not in r.path]

    def answer(self, target: str) -> Reply:
        """The reply to a GET of `target`, a path with its query."""
        path = unquote(target)
        routes: list[tuple[re.Pattern[str], Callable[..., Reply]]] = [
            (CDN, self._blob),
            (RESOLVE, self._resolve),
            (TREE, self._tree),
            (INFO, self._info),
        ]
        try:
            for pattern, route in routes:
                if match := pattern.fullmatch(path):
                    groups = match.groupdict()
                    if groups.get("repo") in self._moved:
                        start, end = match.span("repo")
                        home = path[:start] + self._moved[groups["repo"]] + path[end:]
                        return Reply(307, {"Location": home})
                    return route(**groups)
            raise RefusedError(404, "NotFound")
        except RefusedError as refused:
            return refused.reply

    def _repo(self, repo: str, revision: str | None) -> Repo:
        if repo not in self._repos:
            raise RefusedError(401, "RepoNotFound")  # 401, not 404: the real hub hides whether a private repo exists
        found = self._repos[repo]
        if revision not in (None, "main", found.commit):
            raise RefusedError(404, "RevisionNotFound")
        return found

    def _resolve(self, repo: str, revision: str, path: str) -> Reply:
        home = self._repo(repo, revision)
        commit = {"X-Repo-Commit": home.commit}
        if repo in self.gated:
            raise RefusedError(401, "GatedRepo", commit)
        if path not in home.files:
            raise RefusedError(404, "EntryNotFound", commit)
        file = home.files[path]
        if file.in_lfs:
            linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
            return Reply(302, commit | linked | {"Location": f"{self._cdn}/cdn/{file.sha256}"})
        return Reply(200, commit | {"ETag": f'"{file.oid}"'}, file.content)

    def _blob(self, sha256: str) -> Reply:
        for repo in self._repos.values():
            for file in repo.files.values():
                if file.sha256 == sha256:
                    return Reply(200, {"ETag": f'"{sha256}"'}, file.content)
        raise RefusedError(404, "EntryNotFound")

    def _info(self, repo: str, revision: str | None, query: str | None) -> Reply:
        home = self._repo(repo, revision)
        sizes = query is not None and "blobs=true" in query  # sizes and hashes only for who asks, as on the real hub
        siblings = [
            {"rfilename": path} | (f.listing("blobId", "sha256") if sizes else {}) for path, f in home.files.items()
        ]
        return _json({"id": repo, "sha": home.commit, "private": False, "tags": [], "siblings": siblings})

    def _tree(self, repo: str, revision: str, path: str) -> Reply:
        home = self._repo(repo, revision)
        under = f"{path}/" if path else ""
        inside = {p: f for p, f in home.files.items() if p.startswith(under)}
        if not inside:
            raise RefusedError(404, "EntryNotFound", {"X-Repo-Commit": home.commit})
        return _json([{"type": "file", "path": p} | f.listing("oid", "oid") for p, f in inside.items()])


def _json(value: Any) -> Reply:
    return Reply(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = hub.answer(self.path)
            hub.requests.append(Request(self.command, self.path, reply.status))
            self.send_response(reply.status)
            for name, value in (reply.headers | {"Content-Length": str(len(reply.body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(reply.body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            """Silence: `hub.requests` is the log."""

    return Handler


TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog does not care.",
    "When Mary and John went to the store, John gave a drink to Mary.",
    "Paris is the capital of France; the capital of Italy is Rome.",
]


def tiny_gpt2(folder: Path, seed: int = 0) -> Path:
    """Write a two-layer GPT-2 to `folder` as transformers would: seeded weights, a byte-level BPE of its own."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXT, vocab_size=300, min_frequency=1, special_tokens=["<|endoftext|>"])
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save_model(str(folder))
    GPT2Tokenizer.from_pretrained(str(folder), model_max_length=128).save_pretrained(str(folder))
    size = bpe.get_vocab_size()
    end = bpe.token_to_id("<|endoftext|>")
    config = GPT2Config(
        n_layer=2, n_embd=32, n_head=2, n_positions=128, vocab_size=size, bos_token_id=end, eos_token_id=end
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return folder
