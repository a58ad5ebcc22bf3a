"""Azure Blob Storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ioaccel.errors import ConfigError
from ioaccel.sources.options.client import client_options
from ioaccel.sources.options.given import Given, Resolved, as_flag, check_endpoint, first

# obstore's name -> the other ways to write the option, and the environment variables.
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "account_name": ((), ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")),
    "account_key": (
        ("access_key", "master_key"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"),
    ),
    "sas_key": (("sas_token",), ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")),
    "token": (("bearer_token",), ("AZURE_STORAGE_TOKEN",)),
    "client_id": ((), ("AZURE_STORAGE_CLIENT_ID", "AZURE_CLIENT_ID")),
    "client_secret": ((), ("AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET")),
    "tenant_id": (("authority_id",), ("AZURE_STORAGE_TENANT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_ID")),
    "federated_token_file": ((), ("AZURE_FEDERATED_TOKEN_FILE",)),
    "authority_host": ((), ("AZURE_STORAGE_AUTHORITY_HOST", "AZURE_AUTHORITY_HOST")),
    "msi_endpoint": (("identity_endpoint",), ("AZURE_MSI_ENDPOINT", "AZURE_IDENTITY_ENDPOINT")),
    "msi_resource_id": ((), ("AZURE_MSI_RESOURCE_ID",)),
    "object_id": ((), ("AZURE_OBJECT_ID",)),
}
# Which credential is used, in this order; told to obstore, or one that the engine's environment
# happens to have would come first.
TYPES = {
    "account_key": "access_key",
    "sas_key": "sas_token",
    "token": "bearer_token",
    "client_secret": "client_secret",
    "federated_token_file": "workload_identity",
}
SWITCHES = ("use_emulator", "use_fabric_endpoint", "use_azure_cli")
PUBLIC_SUFFIX = "core.windows.net"


def resolve(options: Mapping[str, Any], environ: Mapping[str, str]) -> Resolved:
    """How to reach Azure Blob Storage. Options win over the environment, credentials as one set."""
    given = Given("az", options)
    config: dict[str, Any] = {}
    if connection := given.text("connection_string"):
        config.update(_connection(connection))
    for name, (others, _) in NAMES.items():
        if (value := given.text(*_every(name, others))) is not None:
            config[name] = value
    for name in SWITCHES:
        if (flag := given.flag(*_every(name, ()))) is not None:
            config[name] = flag
    anonymous = given.flag(*_every("skip_signature", ("anon",)))
    if endpoint := given.text(*_every("endpoint", ("account_url", "endpoint_url"))):
        config["endpoint"] = endpoint
    if host := given.text("account_host"):
        config.setdefault("endpoint", f"https://{host}")
    client = client_options(given)
    given.ignore(["container_name", "max_concurrency", "request_session", "socket_timeout", "blocksize"])
    given.finish()
    return _with_environment(config, anonymous, client, environ)


def _with_environment(
    config: dict[str, Any], anonymous: bool | None, client: dict[str, Any], environ: Mapping[str, str]
) -> Resolved:
    signed = any(name in config for name in TYPES) or config.get("use_azure_cli")
    if not signed and anonymous is None:
        if connection := environ.get("AZURE_STORAGE_CONNECTION_STRING"):
            config = _connection(connection) | config
        else:
            anonymous = bool(as_flag(environ.get("AZURE_SKIP_SIGNATURE", "")))
    for name, (_, variables) in NAMES.items():
        credential = name not in ("account_name", "authority_host")
        if (not signed or not credential) and (value := first(environ, *variables)):
            config.setdefault(name, value)
    if endpoint := first(environ, "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"):
        config.setdefault("endpoint", endpoint)
    if "account_name" not in config and not config.get("use_emulator"):
        raise ConfigError("az:// needs account_name in storage_options, or AZURE_STORAGE_ACCOUNT_NAME")
    if "endpoint" in config:
        config["endpoint"] = check_endpoint(config["endpoint"], "endpoint")
    if "sas_key" in config:
        config["sas_key"] = config["sas_key"].lstrip("?")
    if anonymous:
        config = {name: value for name, value in config.items() if name in ("account_name", "endpoint")}
    config["skip_signature"] = bool(anonymous)
    if kind := next((kind for name, kind in TYPES.items() if name in config), None):
        config["credential_type"] = kind
    return Resolved(config, client, dict(config))


def _every(name: str, others: tuple[str, ...]) -> tuple[str, ...]:
    names = (name, *others)
    return (*names, *(f"azure_{each}" for each in names), *(f"azure_storage_{each}" for each in names))


def _connection(text: str) -> dict[str, str]:
    """The settings in a connection string such as ``AccountName=a;AccountKey=k;EndpointSuffix=...``."""
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    if "AccountName" not in parts and "BlobEndpoint" not in parts:
        raise ConfigError("connection_string for az:// names no AccountName; copy it from the Azure portal")
    config = {}
    for ours, theirs in (
        ("account_name", "AccountName"),
        ("account_key", "AccountKey"),
        ("sas_key", "SharedAccessSignature"),
        ("endpoint", "BlobEndpoint"),
    ):
        if value := parts.get(theirs):
            config[ours] = value
    suffix = parts.get("EndpointSuffix", PUBLIC_SUFFIX)
    if "endpoint" not in config and suffix != PUBLIC_SUFFIX:
        scheme = parts.get("DefaultEndpointsProtocol", "https")
        config["endpoint"] = f"{scheme}://{config['account_name']}.blob.{suffix}"
    if "account_name" not in config:
        host = config["endpoint"].partition("://")[2]
        config["account_name"] = host.partition(".")[0]
    return config
