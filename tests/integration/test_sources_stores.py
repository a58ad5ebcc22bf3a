"""Opening stores: what obstore accepts, what it asks for, and whom it trusts."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ioaccel.errors import ConfigError, StoreError
from ioaccel.sources import open_source, resolve
from ioaccel.sources.options import az, s3
from ioaccel.testing.countproxy import CountingProxy, Fault, Request

HEADERS = {"ETag": '"e"', "Last-Modified": "Mon, 23 Nov 2026 07:00:00 GMT"}


@pytest.mark.parametrize("name", [*s3.SPELLINGS, *s3.SWITCHES])
def test_obstore_knows_every_option_of_s3(name: str) -> None:
    value: Any = name not in s3.SWITCHES or name == "request_payer"
    options: dict[str, Any] = {"key": "a", "secret": "b"}
    if name in s3.SPELLINGS:
        value = {"endpoint": "http://h", "server_side_encryption": "AES256"}.get(name, "AAAA")
    if name == "sse_customer_key_base64":
        options["server_side_encryption"] = "sse-c"
    if name in ("access_key_id", "secret_access_key"):
        options = {"access_key_id": "AAAA", "secret_access_key": "AAAA"}
    open_source(resolve("s3", {**options, name: value}, {}), "bucket")


@pytest.mark.parametrize("name", [*az.NAMES, *az.SWITCHES, "endpoint", "skip_signature"])
def test_obstore_knows_every_option_of_azure(name: str) -> None:
    options: dict[str, Any] = {"account_name": "a", "client_id": "i", "tenant_id": "t", name: "AAAA"}
    if name in (*az.SWITCHES, "skip_signature"):
        options[name] = True
    options |= {"endpoint": {name: "http://h"}, "sas_key": {name: "sv=1&sig=2"}}.get(name, {})
    open_source(resolve("az", options, {}), "container")


@pytest.mark.parametrize("options", [{"token": "anon"}, {"bearer_token": "t"}, {"base_url": "http://h"}, {}])
def test_obstore_knows_the_options_of_google(options: dict[str, Any]) -> None:
    open_source(resolve("gs", options, {"HOME": "/nonexistent"}), "bucket")


def test_options_that_obstore_refuses() -> None:
    with pytest.raises(ConfigError, match=r"gs://bucket do not open it: .*/nonexistent.json"):
        open_source(resolve("gs", {"application_credentials": "/nonexistent.json"}, {}), "bucket")
    with pytest.raises(ConfigError, match="s3://bucket do not open it"):
        open_source(resolve("s3", {"client_options": {"timeout": "soon"}}, {"HOME": "/"}), "bucket")


@pytest.mark.parametrize(
    ("scheme", "options", "path"),
    [
        ("gs", {"token": "anon", "endpoint_url": "{}"}, "/bucket/a%20b%2520"),
        ("az", {"account_name": "a", "account_key": "AAAA", "endpoint": "{}"}, "/bucket/a%20b%2520"),
        ("s3", {"anon": True, "endpoint_url": "{}"}, "/bucket/a%20b%2520"),
        ("s3", {"anon": True, "endpoint_url": "{}/below"}, "/below/bucket/a%20b%2520"),
    ],
)
def test_every_store_asks_for_the_key(scheme: str, options: dict[str, Any], path: str) -> None:
    asked = []

    def answer(request: Request) -> Fault:
        asked.append(request)
        content = {"Content-Range": "bytes 2-4/9"}
        return Fault(status=206, body=b"345", headers={**HEADERS, **content})

    with CountingProxy("http://127.0.0.1:9", answer) as store:
        given = {name: str(value).format(store.endpoint) for name, value in options.items()}
        source = open_source(resolve(scheme, given, {"HOME": "/"}), "bucket")
        fetched = source.get("a b%20", 2, 5, '"e"')
    assert bytes(fetched.data) == b"345"
    assert (fetched.info.size, fetched.info.version) == (9, '"e"')
    assert [request.path for request in asked] == [path]
    assert asked[0].headers["range"] == "bytes=2-4"
    assert asked[0].headers["if-match"] == '"e"'
    assert asked[0].headers["user-agent"] == "ioaccel"


class Silent(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        for name, value in {**HEADERS, "Content-Length": "7"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a server with a certificate of its own, and that certificate."""
    if not shutil.which("openssl"):
        pytest.skip("makes a certificate with openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    command += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
    command += " -addext basicConstraints=critical,CA:FALSE"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("localhost", 0), Silent) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"https://localhost:{server.server_port}", certificate
        server.shutdown()
        thread.join()


def test_certificates(secure: tuple[str, Path]) -> None:
    endpoint, certificate = secure

    def size(**options: Any) -> int:
        spec = resolve("s3", {"anon": True, "endpoint_url": endpoint, **options}, {"HOME": "/"})
        return open_source(spec, "bucket").stat("x").size

    assert size(verify=str(certificate)) == 7
    assert size(verify=False) == 7
    with pytest.raises(StoreError, match="certificate of the endpoint is not trusted; pass verify="):
        size()
