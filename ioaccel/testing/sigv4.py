"""AWS signature version 4, for the few requests that test servers need.

Standard library only: obstore cannot be used in a process that forks afterwards, and tests fork.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote

PAYLOAD = "UNSIGNED-PAYLOAD"  # S3 lets the body go unhashed


def signed_headers(
    method: str, host: str, path: str, query: str, key: str, secret: str, region: str = "us-east-1"
) -> dict[str, str]:
    """The headers that sign this request. ``path`` is percent-encoded, ``query`` is encoded and sorted."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": host, "x-amz-content-sha256": PAYLOAD, "x-amz-date": now}
    names = ";".join(headers)
    lines = [method, path, query, *(f"{name}:{value}" for name, value in headers.items()), "", names, PAYLOAD]
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    signer = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signer = hmac.digest(signer, part.encode(), "sha256")
    signature = hmac.digest(signer, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{request}".encode(), "sha256").hex()
    credential = f"Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 {credential}"}


def encoded_path(*parts: str) -> str:
    """``/bucket/key`` as it goes over the wire and into the signature."""
    return "/" + "/".join(quote(part, safe="/-_.~") for part in parts)
