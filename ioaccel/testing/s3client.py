"""A small S3 client: what a test needs to fill a bucket, from any number of threads."""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from ioaccel.testing.sigv4 import encoded_path, signed_headers

UPLOADS = 16  # at once: enough to hide the server's time for one, few enough for a laptop
TIMEOUT = 30.0  # seconds for a local server to answer


class S3ClientError(Exception):
    """The server refused a request. ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class S3Client:
    """Talks to one endpoint with one pair of keys, from any thread."""

    def __init__(self, endpoint: str, key: str, secret: str) -> None:
        self._host = urlsplit(endpoint).netloc
        self._key = key
        self._secret = secret
        self._idle: list[http.client.HTTPConnection] = []  # append and pop are atomic

    def close(self) -> None:
        """Close all connections. The client can be used again."""
        while self._idle:
            self._idle.pop().close()

    def create_bucket(self, name: str) -> None:
        """Make a bucket. S3ClientError if it exists."""
        self._request("PUT", encoded_path(name))

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Store an object and return its etag."""
        return self._request("PUT", encoded_path(bucket, key), data).get("etag", "")

    def put_many(self, bucket: str, objects: Iterable[tuple[str, bytes]]) -> int:
        """Store many objects, several at once, and return how many. ``objects`` may be a generator."""
        count = 0
        with ThreadPoolExecutor(UPLOADS, thread_name_prefix="s3-upload") as pool:
            pending = set()
            for key, data in objects:
                pending.add(pool.submit(self.put, bucket, key, data))
                count += 1
                if len(pending) >= 4 * UPLOADS:  # do not hold a whole data set in memory
                    done = {future for future in pending if future.done()} or {next(iter(pending))}
                    for future in done:
                        future.result()
                    pending -= done
            for future in pending:
                future.result()
        return count

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; it need not exist."""
        self._request("DELETE", encoded_path(bucket, key))

    def head_bucket(self, name: str) -> None:
        """Raise S3ClientError unless the bucket exists and the keys may use it."""
        self._request("HEAD", encoded_path(name))

    def _request(self, method: str, path: str, body: bytes = b"") -> dict[str, str]:
        headers = signed_headers(method, self._host, path, "", self._key, self._secret)
        connection = (
            self._idle.pop() if self._idle else http.client.HTTPConnection(self._host, timeout=TIMEOUT)
        )
        fresh = connection.sock is None
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            if fresh:
                raise
            return self._request(method, path, body)  # the server had closed this idle connection
        self._idle.append(connection)
        if answer.status >= 300:
            raise S3ClientError(
                answer.status, f"{method} {path}: {answer.status} {text.decode(errors='replace')}"
            )
        return {name.lower(): value for name, value in answer.getheaders()}
