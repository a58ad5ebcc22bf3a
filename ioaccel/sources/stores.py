"""From a `SourceSpec` to an obstore store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ioaccel.errors import ConfigError, EngineError
from ioaccel.sources.spec import SourceSpec

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Credential

CONNECT_TIMEOUT = (
    "5s"  # a handshake over any distance takes below 1 s, and a lost SYN is sent again after 1 and 3
)
READ_TIMEOUT = "20s"  # silence after which a connection is dead; no store takes longer to the first byte
REQUEST_TIMEOUT = "60s"  # 4 MiB in this time is 70 KB/s: slower than that, another connection is better
POOL_IDLE_TIMEOUT = "30s"  # below the 60 s after which load balancers close idle connections unannounced

CLIENT_OPTIONS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT,
    "read_timeout": READ_TIMEOUT,
    "timeout": REQUEST_TIMEOUT,
    "pool_idle_timeout": POOL_IDLE_TIMEOUT,
    # One HTTP/2 connection carries all requests to a host, and its flow control and its one TCP window
    # then limit the node; S3 speaks HTTP/1 only.
    "http1_only": True,
    # The endpoint says http or https.
    "allow_http": True,
    "user_agent": "ioaccel",
}
# The governor retries: it sees all requests of the node, and must see each one that failed.
NO_RETRIES: dict[str, Any] = {"max_retries": 0}

_user: int | None = None  # the process that has made requests with obstore


def check_fork() -> None:
    """Raise EngineError in a process that was forked from one that had made requests with obstore.

    obstore's threads do not survive a fork and its requests then wait for ever: better an error.
    """
    if _user not in (None, os.getpid()):
        raise EngineError(
            f"process {os.getpid()} was forked from one that had already read an object store directly, "
            "and cannot do so itself; start workers with the spawn or forkserver method, or start the engine"
        )


def note_request() -> None:
    """`check_fork`, and remember that this process makes requests."""
    global _user  # noqa: PLW0603  # obstore has one set of threads per process
    check_fork()
    _user = os.getpid()


def open_store(spec: SourceSpec, bucket: str) -> ObjectStore:
    """The obstore store of ``bucket``. ConfigError if obstore does not accept the options."""
    check_fork()
    from obstore.exceptions import BaseError

    client = CLIENT_OPTIONS | spec.options["client"]
    try:
        return _open(spec.scheme, dict(spec.options["config"]), client, bucket)
    except (BaseError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the options for {spec.scheme}://{bucket} do not open it: {reason}") from error


def _open(scheme: str, config: Any, client: dict[str, Any], bucket: str) -> ObjectStore:
    from obstore import store

    common: dict[str, Any] = {"client_options": client, "retry_config": NO_RETRIES}
    if scheme == "s3":
        return _open_s3(config, common, bucket)
    if scheme == "gs":
        return store.GCSStore(bucket, **common, config=config)
    if scheme == "az":
        return store.AzureStore(bucket, **common, config=config)
    return store.HTTPStore(f"{scheme}://{bucket}", **common)


def _open_s3(config: Any, common: dict[str, Any], bucket: str) -> ObjectStore:
    from obstore import store

    endpoint = config.pop("endpoint", None)
    if endpoint is not None:
        if config.get("virtual_hosted_style_request"):
            endpoint = with_bucket(endpoint, bucket)
        # Both names: obstore prefers the second, and would take it from the engine's environment.
        config |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint}
    if "access_key_id" in config:
        # Not as config: obstore would add a session token that the engine's environment happens to have.
        credential: S3Credential = {
            "access_key_id": config.pop("access_key_id"),
            "secret_access_key": config.pop("secret_access_key"),
            "token": config.pop("session_token", None),
            "expires_at": None,
        }
        return store.S3Store(bucket, **common, config=config, credential_provider=lambda: credential)
    return store.S3Store(bucket, **common, config=config)


def with_bucket(endpoint: str, bucket: str) -> str:
    """``endpoint`` with the bucket in front of its host, as virtual-hosted requests need it."""
    parts = urlsplit(endpoint)
    if parts.netloc.startswith(f"{bucket}."):
        return endpoint
    return f"{parts.scheme}://{bucket}.{parts.netloc}{parts.path}"
