"""A bucket on loopback for TensorFlow's own client of Google Cloud Storage, with the answers of its JSON interface.

The client knows one address, so it comes through a proxy, which is this server, and finds a certificate that it is told
to trust. Interface: https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trustme

_API, _CONTENT = "www.googleapis.com", "storage.googleapis.com"


class Cloud:
    """What lies in the bucket, by name, and what was asked of it: (method, name)."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment
        self.lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.objects: dict[str, bytes] = {}
        self.changed: dict[str, datetime] = {}
        self.asked: list[tuple[str, str]] = []
        self.bytes_read = 0
        self.refuses = re.compile(r"(?!)")  # "METHOD name": what is answered with 403
        self.left: int | None = None  # so many changes are made, and then none
        self.uploads: dict[str, tuple[str, bytes]] = {}

    def put(self, name: str, content: bytes) -> None:
        """An object, in the place of what has this name."""
        with self.lock:
            self.objects[name] = content
            self.changed[name] = datetime.now(timezone.utc)

    def add(self, folder: Path, name: str) -> None:
        """All files of a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder)}", path.read_bytes())

    def read(self, begin: int = 0) -> list[str]:
        """The names whose content was asked for, from a place of `asked` on."""
        return [name for method, name in self.asked[begin:] if method == "READ"]


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer goes out whole
    server: Any
    host = ""

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.finish()
        try:
            self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        except OSError:  # the client is gone
            self.close_connection = True
            return
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
        self.close_connection = False

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()  # which the client waits for, for a second
        return True

    def handle(self) -> None:
        with suppress(OSError):  # a client that is killed says no good-bye
            super().handle()
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.close()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        words = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self._body()
        with self.server.cloud.lock:
            if self.host == _CONTENT:
                return self._content(unquote(url.path).split("/", 2)[2])
            for pattern, answer in _ANSWERS.items():
                if found := re.fullmatch(pattern, url.path):
                    names = [unquote(group) for group in found.groups()]
                    return getattr(self, answer)(*names, words=words, body=body)
        return self._say(404)

    do_POST = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _say(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def _is_refused(self, method: str, name: str) -> bool:
        self.server.cloud.asked.append((method, name))
        cloud = self.server.cloud
        is_refused = cloud.refuses.search(f"{method} {name}") is not None
        if cloud.left is not None and method != "READ":
            is_refused, cloud.left = is_refused or not cloud.left, max(0, cloud.left - 1)
        if is_refused:
            self._say(403)
        return is_refused

    def _content(self, name: str) -> None:
        objects = self.server.cloud.objects
        if self._is_refused("READ", name):
            return None
        if name not in objects:
            return self._say(404)
        found = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "bytes=0-"))
        first, last = (int(found[1]), int(found[2])) if found else (0, len(objects[name]))
        content = objects[name][first : last + 1]
        self.server.cloud.bytes_read += len(content)
        return self._say(206, content) if content or not objects[name] else self._say(416)

    def _about(self, name: str, words: dict[str, str], body: bytes) -> None:
        cloud = self.server.cloud
        if self.command == "DELETE":
            if not self._is_refused("DELETE", name):
                self._say(204 if cloud.objects.pop(name, None) is not None else 404)
            return None
        cloud.asked.append(("STAT", name))
        if name not in cloud.objects:
            return self._say(404)
        changed = cloud.changed[name].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        size = str(len(cloud.objects[name]))
        return self._say(200, json.dumps({"size": size, "generation": "1", "updated": changed}).encode())

    def _list(self, words: dict[str, str], body: bytes) -> None:
        prefix, folders, names = words.get("prefix", ""), set(), []
        for name in sorted(self.server.cloud.objects):
            if name.startswith(prefix):
                rest, slash, _ = name.removeprefix(prefix).partition("/")
                if slash and "delimiter" in words:
                    folders.add(f"{prefix}{rest}/")
                else:
                    names.append({"name": name})
        first = int(words.get("pageToken", 0))
        last = first + int(words.get("maxResults", 1000))
        found: dict[str, Any] = {"items": names[first:last], "prefixes": sorted(folders) * (first == 0)}
        found |= {"nextPageToken": str(last)} if last < len(names) and "maxResults" not in words else {}
        self._say(200, json.dumps({key: value for key, value in found.items() if value}).encode())

    def _upload(self, words: dict[str, str], body: bytes) -> None:
        cloud, name = self.server.cloud, words["name"]
        if self._is_refused("WRITE", name):
            return None
        if words["uploadType"] == "media":
            if words.get("ifGenerationMatch") == "0" and name in cloud.objects:
                return self._say(412)
            cloud.put(name, body)
            return self._say(200, b"{}")
        key = str(len(cloud.uploads))
        cloud.uploads[key] = name, b""
        return self._say(200, Location=f"https://{_API}/upload/session/{key}")

    def _continue(self, key: str, words: dict[str, str], body: bytes) -> None:
        name, before = self.server.cloud.uploads[key]
        self.server.cloud.uploads[key] = name, before + body
        self.server.cloud.put(name, before + body)
        self._say(200, b"{}")

    def _rewrite(self, name: str, to: str, words: dict[str, str], body: bytes) -> None:
        if self._is_refused("WRITE", to):
            return None
        if name not in self.server.cloud.objects:
            return self._say(404)
        self.server.cloud.put(to, self.server.cloud.objects[name])
        return self._say(200, b'{"done": true}')

    def _bucket(self, words: dict[str, str], body: bytes) -> None:
        self._say(200, b'{"name": "bucket", "location": "US"}')


_ANSWERS = {
    r"/storage/v1/b/bucket": "_bucket",
    r"/storage/v1/b/bucket/o": "_list",
    r"/storage/v1/b/bucket/o/([^/]+)": "_about",
    r"/storage/v1/b/bucket/o/([^/]+)/rewriteTo/b/bucket/o/([^/]+)": "_rewrite",
    r"/upload/storage/v1/b/bucket/o": "_upload",
    r"/upload/session/(\d+)": "_continue",
}


@contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    """A bucket `gs://bucket` for processes with its environment; its certificate lies in `folder`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
    server.daemon_threads, server.context = True, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(_API, _CONTENT).configure_cert(server.context)
    proxy = f"http://127.0.0.1:{server.server_port}"
    told = {
        "https_proxy": proxy,
        "no_proxy": "127.0.0.1",
        "CURL_CA_BUNDLE": str(folder / "authority.pem"),
        "NO_GCE_CHECK": "true",
    }
    server.cloud = Cloud({**told, "GCS_RETRY_CONFIG_MAX_RETRIES": "1", "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "1000"})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.cloud
    finally:
        server.shutdown()
        server.server_close()
