"""S3 and what speaks its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ioaccel.errors import ConfigError
from ioaccel.sources.options.aws_profile import Profile, read_profile
from ioaccel.sources.options.client import client_options
from ioaccel.sources.options.given import Given, Resolved, as_flag, check_endpoint, first

# obstore's name -> the other ways to write it. Each is also understood with "aws_" before it.
SPELLINGS = {
    "access_key_id": ("key", "username"),
    "secret_access_key": ("secret", "password"),
    "session_token": ("token",),
    "region": ("region_name", "default_region"),
    "endpoint": ("endpoint_url", "endpoint_url_s3"),
    "role_arn": (),
    "role_session_name": (),
    "web_identity_token_file": (),
    "container_credentials_relative_uri": (),
    "container_credentials_full_uri": (),
    "container_authorization_token_file": (),
    "endpoint_url_sts": ("sts_endpoint",),
    "metadata_endpoint": (),
    "server_side_encryption": (),
    "sse_customer_key_base64": (),
}
SWITCHES = {
    "skip_signature": ("anon",),
    "request_payer": ("requester_pays",),
    "virtual_hosted_style_request": (),
    "imdsv1_fallback": (),
    "s3_express": (),
}
KEYS = ("access_key_id", "secret_access_key", "session_token")
ROLE = ("role_arn", "role_session_name", "web_identity_token_file", "endpoint_url_sts")
CONTAINER = (
    "container_credentials_relative_uri",
    "container_credentials_full_uri",
    "container_authorization_token_file",
)
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT_URL")
# They matter to writing only.
WRITING = (
    "bucket",
    "checksum_algorithm",
    "conditional_put",
    "copy_if_not_exists",
    "disable_bulk_delete",
    "disable_tagging",
    "sse_bucket_key_enabled",
    "sse_kms_key_id",
    "unsigned_payload",
)
DEFAULT_REGION = "us-east-1"  # what AWS assumes, and what every S3-compatible store accepts


def resolve(options: Mapping[str, Any], environ: Mapping[str, str]) -> Resolved:
    """How to reach an S3 store. Options win over the environment, and credentials come from one place:
    a key from one and a token from the other would never fit."""
    given = Given("s3", _flat(options))
    config: dict[str, Any] = {}
    for name, others in SPELLINGS.items():
        if (value := given.text(*_every(name, others))) is not None:
            config[name] = value
    for name, others in SWITCHES.items():
        if (flag := given.flag(*_every(name, others))) is not None:
            config[name] = flag
    profile_name = given.text("profile", "profile_name", "aws_profile")
    use_ssl = given.flag("use_ssl", "aws_allow_https")
    client = client_options(given, ca_bundle=first(environ, "AWS_CA_BUNDLE"))
    _botocore_config(given.mapping("config_kwargs"), config, client)
    given.ignore([spelling for name in WRITING for spelling in _every(name, ())])
    given.finish()

    _switches_of(environ, config)
    profile = _credentials(config, profile_name, environ)
    region = first(environ, "AWS_REGION", "AWS_DEFAULT_REGION") or profile.region
    config.setdefault("region", region or DEFAULT_REGION)
    endpoint = config.pop("endpoint", None) or first(environ, *ENDPOINT_VARIABLES) or profile.endpoint
    if endpoint is None and use_ssl is False:
        endpoint = f"http://s3.{config['region']}.amazonaws.com"
    if endpoint is not None:
        config["endpoint"] = check_endpoint(endpoint, "endpoint_url")
    told = ("endpoint", "skip_signature", *KEYS, *ROLE, *CONTAINER, "sse_customer_key_base64")
    return Resolved(config, client, {name: config[name] for name in told if name in config})


def _every(name: str, others: tuple[str, ...]) -> tuple[str, ...]:
    names = (name, *others)
    return (*names, *(f"aws_{each}" for each in names))


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with botocore's ``client_kwargs`` beside the others, which win (as in s3fs)."""
    inner = options.get("client_kwargs") or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"option 'client_kwargs' must be a mapping, not {type(inner).__name__}")
    own = {name: value for name, value in options.items() if name != "client_kwargs" and value is not None}
    taken = {spelling for name in own for spelling in _family(name)}
    return {name: value for name, value in inner.items() if name not in taken} | own


def _family(name: str) -> tuple[str, ...]:
    for known, others in (*SPELLINGS.items(), *SWITCHES.items()):
        if name in (family := _every(known, others)):
            return family
    return (name,)


def _botocore_config(options: dict[str, Any], config: dict[str, Any], client: dict[str, Any]) -> None:
    """What matters of s3fs's ``config_kwargs``. Retries and pools are ioaccel's to manage."""
    given = Given("config_kwargs of s3", options)
    given.ignore(["retries", "max_pool_connections", "tcp_keepalive", "user_agent_extra"])
    given.ignore(["signature_version"] if options.get("signature_version") == "s3v4" else [])
    s3 = Given("config_kwargs['s3'] of s3", given.mapping("s3"))
    if (style := s3.text("addressing_style")) is not None:
        config.setdefault("virtual_hosted_style_request", style == "virtual")
    s3.finish()
    for name, value in client_options(given).items():
        client.setdefault(name, value)
    given.finish()


def _switches_of(environ: Mapping[str, str], config: dict[str, Any]) -> None:
    for name in ("request_payer", "virtual_hosted_style_request", "imdsv1_fallback"):
        value = environ.get(f"AWS_{name.upper()}")
        if value is not None and name not in config:
            config[name] = value.lower() == "requester" or bool(as_flag(value))
    if value := environ.get("AWS_METADATA_ENDPOINT"):
        config.setdefault("metadata_endpoint", value)


def _credentials(config: dict[str, Any], name: str | None, environ: Mapping[str, str]) -> Profile:
    """Put credentials into ``config`` and return the profile that applies. In botocore's order: options,
    named profile, keys, $AWS_PROFILE, web identity, default profile, container; else the instance's."""
    named = name or first(environ, "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
    profile = read_profile(named or "default", environ)
    given = any(each in config for each in (*KEYS, *ROLE, *CONTAINER))
    if "skip_signature" not in config and not given and name is None:
        config["skip_signature"] = bool(as_flag(environ.get("AWS_SKIP_SIGNATURE", "")))
    if config.setdefault("skip_signature", False):
        for each in (*KEYS, *ROLE, *CONTAINER):
            config.pop(each, None)
    elif given:
        if ("access_key_id" in config) != ("secret_access_key" in config):
            raise ConfigError("s3:// needs both key and secret in storage_options, or neither")
        if "session_token" in config and "access_key_id" not in config:
            raise ConfigError("option 'token' for s3:// belongs to a key and a secret; pass all three")
    elif name is not None:
        config.update(profile.require_keys())
    elif not _from_environment(config, KEYS, environ, needs="AWS_SECRET_ACCESS_KEY"):
        if named:
            config.update(profile.require_keys())
        elif not _from_environment(config, ROLE, environ, needs="AWS_WEB_IDENTITY_TOKEN_FILE"):
            config.update(profile.keys)
            if not profile.keys:
                _from_environment(config, CONTAINER, environ)
    return profile


def _from_environment(
    config: dict[str, Any], names: tuple[str, ...], environ: Mapping[str, str], needs: str | None = None
) -> bool:
    """Take these settings from the environment; whether any were there, and ``needs`` too."""
    if needs is not None and not environ.get(needs):
        return False
    found = {name: value for name in names if (value := environ.get(f"AWS_{name.upper()}"))}
    if "session_token" in names and "session_token" not in found and environ.get("AWS_TOKEN"):
        found["session_token"] = environ["AWS_TOKEN"]
    config.update(found)
    return bool(found)
