"""A double of the Hugging Face Hub on loopback, complete enough for the real clients.

    with HubServer() as hub:
        os.environ.update(hub.environment)      # before huggingface_hub, datasets or transformers are imported
        …
        hub.files("dataset", "org/name")        # {path: bytes} of a revision
        hub.commits("dataset", "org/name")      # summaries, oldest first
        hub.fail("POST", r"/commit/", 412)      # the next matching request is refused
        hub.requests                            # what was asked, in order

It serves `huggingface_hub` 2.4, `datasets` 5.2 and `transformers` 5 over plain LFS uploads (Xet is switched off by the
environment): repositories, branches, tags, pull requests, private repositories, tokens, commits and ranges.
Content lies on disk under its sha256; a repository is a list of commits, each a mapping of paths to blobs.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web

LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".model", ".arrow", ".zip", ".gz", ".h5", ".pt", ".pkl")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclasses.dataclass(frozen=True)
class Blob:
    """One stored file: both of its names, and whether git holds it or LFS does."""

    sha256: str
    git_oid: str
    size: int
    lfs: bool

    @property
    def oid(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def node(self, path: str) -> dict[str, Any]:
        node: dict[str, Any] = {"type": "file", "path": path, "oid": self.git_oid, "size": self.size}
        if self.lfs:
            node["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return node


@dataclasses.dataclass(frozen=True)
class Commit:
    """One commit: its tree is whole, not a difference."""

    oid: str
    parent: str | None
    summary: str
    date: str
    tree: dict[str, Blob]


@dataclasses.dataclass
class Repo:
    """One repository: its commits, and the names that point at them."""

    kind: str
    id: str
    private: bool
    gated: bool = False
    commits: dict[str, Commit] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    pulls: int = 0

    def find(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        oid = oid if oid in self.commits else self.branches.get(revision.removeprefix("refs/heads/"), oid)
        if oid not in self.commits:
            raise Refused(404, "RevisionNotFound", f"no revision {revision}")
        return self.commits[oid]


@dataclasses.dataclass(frozen=True)
class Seen:
    """One request as the server saw it."""

    method: str
    path: str
    status: int


@dataclasses.dataclass
class Fault:
    """What to answer instead, how often, and from which matching request on."""

    method: str
    pattern: str
    status: int
    times: int
    after: int = 0


class Hold:
    """Requests that wait: `reached` is set when the first of them is there, `release` lets them all go on."""

    def __init__(self, method: str, pattern: str, after: int) -> None:
        self.method, self.pattern, self.after = method, pattern, after
        self.reached, self._over = threading.Event(), threading.Event()

    def release(self) -> None:
        """Let what waits, and what will come, go on."""
        self._over.set()

    async def wait(self, method: str, path: str) -> None:
        """Wait, where the request is one of them."""
        if method != self.method or not re.search(self.pattern, path):
            return
        if self.after:
            self.after -= 1
            return
        self.reached.set()
        await asyncio.to_thread(self._over.wait)


class Refused(Exception):
    """An error answer of the Hub."""

    def __init__(self, status: int, code: str = "", message: str = "", **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.body = status, code, message, body


def _sibling_lfs(blob: Blob) -> dict[str, Any]:
    # The listing of a repository calls sha256 what a tree calls oid.
    return {"sha256": blob.sha256, "size": blob.size, "pointerSize": 134}


Handler = Callable[[web.Request, dict[str, str]], Awaitable[web.StreamResponse]]


class HubServer:
    """The double. ``tokens`` maps each token to its role; files larger than ``chunk_size`` are uploaded in parts."""

    def __init__(self, folder: Path | None = None, *, port: int = 0, user: str = "tester") -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="nbdream-hub-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.user = user
        self.url = ""
        self._port = port
        self.reset()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="hub-double", daemon=True)

    def reset(self) -> None:
        """Forget every repository, request and fault; the first token is the one of `environment`."""
        self.tokens: dict[str, str] = {"hf_test": "write", "hf_read": "read"}
        self.chunk_size: int | None = None
        self.requests: list[Seen] = []
        self._repos: dict[tuple[str, str], Repo] = {}
        self._faults: list[Fault] = []
        for hold in getattr(self, "_holds", []):
            hold.release()
        self._holds: list[Hold] = []
        shutil.rmtree(self.folder / "blobs", ignore_errors=True)
        (self.folder / "blobs").mkdir(parents=True)

    # -- what tests use ------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if self._temporary:
            self._temporary.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What must be in ``os.environ`` before a client is imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.folder / "hf-home"),
            "HF_TOKEN": next(iter(self.tokens)),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def fail(self, method: str, pattern: str, status: int, *, times: int = 1, after: int = 0) -> None:
        """Refuse the next ``times`` requests whose path matches ``pattern``, once ``after`` of them were let through."""
        self._faults.append(Fault(method, pattern, status, times, after))

    def hold(self, method: str, pattern: str, *, after: int = 0) -> Hold:
        """Let requests whose path matches ``pattern`` wait, once ``after`` of them were let through."""
        self._holds.append(Hold(method, pattern, after))
        return self._holds[-1]

    def repo(self, kind: str, repo_id: str) -> Repo:
        """The repository, for a test to look at."""
        return self._repos[kind, repo_id]

    def files(self, kind: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """All files of a revision but ``.gitattributes``, which every new repository has."""
        tree = self.repo(kind, repo_id).find(revision).tree
        return {path: self._read(blob) for path, blob in sorted(tree.items()) if path != ".gitattributes"}

    def commits(self, kind: str, repo_id: str, revision: str = "main") -> list[str]:
        """The summaries of a revision's commits, oldest first."""
        return [commit.summary for commit in reversed(self._history(self.repo(kind, repo_id), revision))]

    def add(
        self, kind: str, repo_id: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False, summary: str = "by hand"
    ) -> str:
        """Put files into a repository (made when it is missing) in one commit, without a client; returns the commit."""
        repo = self._repos.get((kind, repo_id)) or self._create(kind, repo_id, private)
        repo.gated = gated
        head = repo.find("main")
        tree = {**head.tree, **{path: self._store(data, lfs=path.endswith(LFS_SUFFIXES)) for path, data in files.items()}}
        return self._commit(repo, "main", tree, summary).oid

    # -- storage -------------------------------------------------------------------------------------------------

    def _blob_path(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256

    def _read(self, blob: Blob) -> bytes:
        return self._blob_path(blob.sha256).read_bytes()

    def _store(self, data: bytes, *, lfs: bool) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        self._blob_path(sha256).write_bytes(data)
        return Blob(sha256, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), len(data), lfs)

    def _create(self, kind: str, repo_id: str, private: bool) -> Repo:
        repo = self._repos[kind, repo_id] = Repo(kind, repo_id, private)
        self._commit(repo, "main", {".gitattributes": self._store(b"*.parquet filter=lfs\n", lfs=False)}, "initial commit")
        return repo

    def _commit(self, repo: Repo, branch: str, tree: dict[str, Blob], summary: str) -> Commit:
        parent = repo.branches.get(branch)
        content = json.dumps([len(repo.commits), parent, summary, {path: blob.sha256 for path, blob in sorted(tree.items())}])
        oid = hashlib.sha1(content.encode()).hexdigest()
        commit = Commit(oid, parent, summary, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"), tree)
        repo.commits[oid] = commit
        repo.branches[branch] = oid
        return commit

    def _history(self, repo: Repo, revision: str) -> list[Commit]:
        commits = [repo.find(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(repo.commits[parent])
        return commits

    # -- the server ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        for hold in self._holds:
            await hold.wait(request.method, path)
        try:
            response = self._fault(request.method, path) or await self._route(request, path)
        except Refused as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            if error.message:
                headers["X-Error-Message"] = error.message
            response = web.json_response({"error": error.message, **error.body}, status=error.status, headers=headers)
        self.requests.append(Seen(request.method, path, response.status))
        return response

    def _fault(self, method: str, path: str) -> web.Response | None:
        for fault in self._faults:
            if fault.times and method == fault.method and re.search(fault.pattern, path):
                if fault.after:
                    fault.after -= 1
                    return None
                fault.times -= 1
                return web.json_response({"error": "injected"}, status=fault.status)
        return None

    async def _route(self, request: web.Request, path: str) -> web.StreamResponse:
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and request.method in method.split():
                handler: Handler = getattr(self, name)
                return await handler(request, {key: unquote(value or "") for key, value in match.groupdict().items()})
        raise Refused(404, "", f"no such endpoint: {request.method} {path}")

    def _role(self, request: web.Request) -> str | None:
        given = request.headers.get("Authorization")
        if given is None:
            return None
        role = self.tokens.get(given.removeprefix("Bearer "))
        if role is None:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return role

    def _must_write(self, request: web.Request) -> None:
        role = self._role(request)
        if role is None:
            raise Refused(401, "", "Invalid username or password.")
        if role != "write":
            raise Refused(403, "", "You don't have the rights to write")

    def _find(self, request: web.Request, at: dict[str, str]) -> Repo:
        role = self._role(request)
        kind = KINDS.get(at.get("kind") or at.get("prefix", "").strip("/") or "models", "model")
        repo = self._repos.get((kind, at["id"]))
        if repo is None or (repo.private and role is None):
            raise Refused(404 if role else 401, "RepoNotFound", "Repository not found")
        return repo

    # -- accounts and repositories -------------------------------------------------------------------------------

    async def whoami(self, request: web.Request, at: dict[str, str]) -> web.Response:
        role = self._role(request)
        if role is None:
            raise Refused(401, "", "Invalid username or password.")
        token = {"role": role, "displayName": "test"}
        return web.json_response(
            {"type": "user", "name": self.user, "fullname": self.user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}
        )

    async def create(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        asked = await request.json()
        kind = asked.get("type") or "model"
        repo_id = f"{asked.get('organization') or self.user}/{asked['name']}"
        prefix = "" if kind == "model" else f"{kind}s/"
        answer = {"url": f"{self.url}/{prefix}{repo_id}", "id": repo_id, "name": repo_id}
        if (kind, repo_id) in self._repos:
            return web.json_response({"error": "You already created this repo", **answer}, status=409)
        self._create(kind, repo_id, asked.get("visibility") == "private" or bool(asked.get("private")))
        return web.json_response(answer)

    async def delete(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        asked = await request.json()
        key = (asked.get("type") or "model", f"{asked.get('organization') or self.user}/{asked['name']}")
        if self._repos.pop(key, None) is None:
            raise Refused(404, "RepoNotFound", "Repository not found")
        return web.json_response({})

    async def validate_yaml(self, request: web.Request, at: dict[str, str]) -> web.Response:
        import yaml

        content = (await request.json())["content"]
        match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        errors = []
        try:
            data = yaml.safe_load(match.group(1)) if match else {}
            license_ = data.get("license") if isinstance(data, dict) else None
            if license_ is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(license_)):
                errors.append({"message": f'"license" must be one of the known ones: {license_}'})
        except yaml.YAMLError as error:
            errors.append({"message": str(error)})
        return web.json_response({"errors": errors, "warnings": []}, status=400 if errors else 200)

    async def settings(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        repo, asked = self._find(request, at), await request.json()
        repo.private = asked.get("visibility", "private" if asked.get("private", repo.private) else "public") == "private"
        return web.json_response({})

    # -- reading -------------------------------------------------------------------------------------------------

    async def info(self, request: web.Request, at: dict[str, str]) -> web.Response:
        repo = self._find(request, at)
        commit = repo.find(at.get("rev") or "main")
        siblings = [
            {"rfilename": path, "size": blob.size, "blobId": blob.git_oid} | ({"lfs": _sibling_lfs(blob)} if blob.lfs else {})
            for path, blob in sorted(commit.tree.items())
        ]
        answer = {"_id": repo.id, "id": repo.id, "author": repo.id.partition("/")[0], "sha": commit.oid, "private": repo.private}
        answer |= {
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "lastModified": commit.date,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        return web.json_response(answer | {"siblings": siblings} | ({"modelId": repo.id} if repo.kind == "model" else {}))

    def _directories(self, tree: dict[str, Blob]) -> set[str]:
        return {"/".join(path.split("/")[:depth]) for path in tree for depth in range(1, path.count("/") + 1)}

    async def tree(self, request: web.Request, at: dict[str, str]) -> web.Response:
        commit = self._find(request, at).find(at["rev"])
        under = at.get("path", "").strip("/")
        folders = self._directories(commit.tree)
        if under and under not in folders:
            raise Refused(404, "EntryNotFound", f"{under} does not exist")
        recursive = request.query.get("recursive", "").lower() in ("1", "true")

        def wanted(path: str) -> bool:
            inside = not under or path.startswith(under + "/")
            return inside and (recursive or "/" not in path[len(under) :].strip("/"))

        nodes: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders if wanted(path)]
        nodes += [blob.node(path) for path, blob in commit.tree.items() if wanted(path)]
        return web.json_response(self._expanded(request.query.get("expand"), nodes, commit))

    async def paths_info(self, request: web.Request, at: dict[str, str]) -> web.Response:
        commit = self._find(request, at).find(at["rev"])
        form = await request.post() if "form" in request.content_type else await request.json()
        paths = form.getall("paths", []) if hasattr(form, "getall") else form["paths"]
        folders = self._directories(commit.tree)
        nodes = [commit.tree[path].node(path) for path in paths if path in commit.tree]
        nodes += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in paths if path in folders]
        return web.json_response(self._expanded(form.get("expand"), nodes, commit))

    def _expanded(self, expand: object, nodes: list[dict[str, Any]], commit: Commit) -> list[dict[str, Any]]:
        extra: dict[str, Any] = {}
        if str(expand).lower() in ("1", "true"):
            extra = {"lastCommit": {"id": commit.oid, "title": commit.summary, "date": commit.date}}
        return sorted(({**node, **extra} for node in nodes), key=lambda node: str(node["path"]))

    async def resolve(self, request: web.Request, at: dict[str, str]) -> web.Response:
        commit = self._find(request, at).find(at["rev"])
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        blob = commit.tree.get(at["path"])
        if blob is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return web.Response(status=404, headers=headers, text="Entry not found")
        headers["ETag"] = f'"{blob.oid}"'
        if blob.lfs:
            headers |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.sha256}"'}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(blob.size)})
        data, status = self._read(blob), 200
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if span and any(span.groups()):
            first = int(span[1]) if span[1] else max(0, blob.size - int(span[2]))
            last = min(int(span[2]), blob.size - 1) if span[1] and span[2] else blob.size - 1
            if first >= blob.size:
                return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{blob.size}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
            data, status = data[first : last + 1], 206
        return web.Response(body=data, status=status, headers=headers, content_type="application/octet-stream")

    async def refs(self, request: web.Request, at: dict[str, str]) -> web.Response:
        repo = self._find(request, at)
        own = {name: oid for name, oid in repo.branches.items() if not name.startswith("refs/")}

        def rows(names: dict[str, str], where: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": oid} for name, oid in names.items()]

        return web.json_response({"branches": rows(own, "heads"), "tags": rows(repo.tags, "tags"), "converts": [], "pullRequests": []})

    async def log(self, request: web.Request, at: dict[str, str]) -> web.Response:
        history = self._history(self._find(request, at), at["rev"])
        return web.json_response(
            [{"id": c.oid, "title": c.summary, "message": "", "date": c.date, "authors": [{"user": self.user}]} for c in history]
        )

    # -- writing -------------------------------------------------------------------------------------------------

    async def branch(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        repo = self._find(request, at)
        if request.method == "DELETE":
            if repo.branches.pop(at["name"], None) is None:
                raise Refused(404, "RevisionNotFound", "no such branch")
            return web.json_response({})
        if at["name"] in repo.branches:
            raise Refused(409, "", "Reference already exists")
        asked = await request.json() if request.can_read_body else {}
        repo.branches[at["name"]] = repo.find(asked.get("startingPoint") or "main").oid
        return web.json_response({})

    async def tag(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        repo = self._find(request, at)
        if request.method == "DELETE":
            if repo.tags.pop(at["rev"], None) is None:
                raise Refused(404, "RevisionNotFound", "no such tag")
            return web.json_response({})
        name = (await request.json())["tag"]
        if name in repo.tags:
            raise Refused(409, "", "Reference already exists")
        repo.tags[name] = repo.find(at["rev"]).oid
        return web.json_response({})

    async def preupload(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        stored = self._find(request, at).find(at["rev"]).tree
        files = []
        for file in (await request.json())["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            lfs = path.endswith(LFS_SUFFIXES) or file["size"] > 10_000_000 or b"\0" in sample
            oid = stored[path].oid if path in stored else None
            files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        return web.json_response({"files": files})

    async def lfs_batch(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        self._find(request, at)
        objects = []
        for wanted in (await request.json())["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if not self._blob_path(oid).exists():
                answer["actions"] = {"upload": self._upload_action(oid, size), "verify": {"href": f"{self.url}/lfs/verify"}}
            objects.append(answer)
        return web.json_response({"transfer": "multipart" if self.chunk_size else "basic", "objects": objects})

    def _upload_action(self, oid: str, size: int) -> dict[str, Any]:
        if not self.chunk_size or size <= self.chunk_size:
            return {"href": f"{self.url}/lfs/upload/{oid}"}
        parts = range(1, -(-size // self.chunk_size) + 1)
        header = {"chunk_size": str(self.chunk_size)} | {str(part): f"{self.url}/lfs/part/{oid}/{part}" for part in parts}
        return {"href": f"{self.url}/lfs/complete/{oid}", "header": header}

    async def lfs_upload(self, request: web.Request, at: dict[str, str]) -> web.Response:
        data = await request.read()
        if hashlib.sha256(data).hexdigest() != at["oid"]:
            raise Refused(422, "", "the content does not have this sha256")
        self._store(data, lfs=True)
        return web.Response()

    async def lfs_part(self, request: web.Request, at: dict[str, str]) -> web.Response:
        (self.folder / f"{at['oid']}.{int(at['part'])}").write_bytes(await request.read())
        return web.Response(headers={"ETag": f'"{at["part"]}"'})

    async def lfs_complete(self, request: web.Request, at: dict[str, str]) -> web.Response:
        numbers = [part["partNumber"] for part in (await request.json())["parts"]]
        data = b"".join((self.folder / f"{at['oid']}.{number}").read_bytes() for number in numbers)
        if hashlib.sha256(data).hexdigest() != at["oid"]:
            raise Refused(422, "", "the parts do not have this sha256")
        self._store(data, lfs=True)
        return web.json_response({})

    async def lfs_verify(self, request: web.Request, at: dict[str, str]) -> web.Response:
        asked = await request.json()
        path = self._blob_path(asked["oid"])
        if not path.exists() or path.stat().st_size != asked["size"]:
            raise Refused(404, "", "the object was not uploaded")
        return web.json_response({})

    async def commit(self, request: web.Request, at: dict[str, str]) -> web.Response:
        self._must_write(request)
        repo = self._find(request, at)
        lines = [json.loads(line) for line in (await request.text()).splitlines() if line.strip()]
        header = lines[0]["value"]
        head = repo.find(at["rev"])
        if header.get("parentCommit") not in (None, head.oid):
            raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for line in lines[1:]:
            self._apply(tree, line["key"], line["value"])
        branch, pull = at["rev"], None
        if request.query.get("create_pr"):
            repo.pulls += 1
            branch, pull = f"refs/pr/{repo.pulls}", f"{self.url}/{repo.id}/discussions/{repo.pulls}"
            repo.branches[branch] = head.oid
        commit = self._commit(repo, branch, tree, header["summary"])
        prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{self.url}/{prefix}{repo.id}/commit/{commit.oid}"}
        return web.json_response(answer | ({"pullRequestUrl": pull} if pull else {}))

    def _apply(self, tree: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            tree[path] = self._store(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if not self._blob_path(value["oid"]).exists():
                raise Refused(400, "", f"{path} was not uploaded")
            tree[path] = self._store(self._blob_path(value["oid"]).read_bytes(), lfs=True)
        elif key == "deletedFile":
            if tree.pop(path, None) is None:
                raise Refused(404, "EntryNotFound", f"{path} does not exist")
        elif key == "deletedFolder":
            for inside in [name for name in tree if name.startswith(path.rstrip("/") + "/")]:
                del tree[inside]
        else:
            raise Refused(400, "", f"unknown operation {key}")


_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
_FILE = r"/(?P<prefix>datasets/|spaces/)?(?P<id>[^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("DELETE", r"/api/repos/delete", "delete"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("PUT", r"/lfs/upload/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
    ("PUT", r"/lfs/part/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", "lfs_part"),
    ("POST", r"/lfs/complete/(?P<oid>[0-9a-f]{64})", "lfs_complete"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("POST", _FILE + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("GET", _API, "info"),
    ("GET", _API + r"/revision/(?P<rev>[^/]+)", "info"),
    ("GET", _API + r"/tree/(?P<rev>[^/]+)(?:/(?P<path>.*))?", "tree"),
    ("POST", _API + r"/paths-info/(?P<rev>[^/]+)", "paths_info"),
    ("GET", _API + r"/refs", "refs"),
    ("GET", _API + r"/commits/(?P<rev>[^/]+)", "log"),
    ("POST DELETE", _API + r"/branch/(?P<name>[^/]+)", "branch"),
    ("POST DELETE", _API + r"/tag/(?P<rev>[^/]+)", "tag"),
    ("PUT", _API + r"/settings", "settings"),
    ("POST", _API + r"/preupload/(?P<rev>[^/]+)", "preupload"),
    ("POST", _API + r"/commit/(?P<rev>[^/]+)", "commit"),
    ("GET HEAD", _FILE + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
)
