"""Google Cloud Storage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from ioaccel.errors import ConfigError
from ioaccel.sources.options.client import client_options
from ioaccel.sources.options.given import Given, Resolved, as_flag, check_endpoint, first

# Options of gcsfs that say who pays, or matter to writing only.
IGNORED = ("access", "bucket", "check_connection", "default_location", "project", "secure_serialize")
CREDENTIALS = {
    "application_credentials": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "service_account": ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"),
    "service_account_key": ("GOOGLE_SERVICE_ACCOUNT_KEY",),
    "bearer_token": ("GOOGLE_BEARER_TOKEN",),
}
LOGIN_FILE = ".config/gcloud/application_default_credentials.json"


def resolve(options: Mapping[str, Any], environ: Mapping[str, str]) -> Resolved:
    """How to reach Google Cloud Storage: options, else the environment, else the login of ``gcloud``."""
    given = Given("gs", options)
    config: dict[str, Any] = {}
    for name in CREDENTIALS:
        spellings = (name, f"google_{name}", *(["service_account_path"] if name == "service_account" else []))
        if (value := given.text(*spellings)) is not None:
            config[name] = value
    anonymous = given.flag("skip_signature", "anon", "google_skip_signature")
    sign_in = given.take("token")
    if sign_in == "anon":
        anonymous = True
    elif sign_in is not None:
        config.update(_token(sign_in))
    base_url = given.text("base_url", "endpoint_url", "endpoint", "google_base_url")
    client = client_options(given)
    given.ignore(IGNORED)
    given.finish()

    if len(config) > 1:
        raise ConfigError(f"{' and '.join(config)} are two ways to sign in to gs://; pass one of them")
    if not config and anonymous is None:
        config.update(_ambient(environ))
        anonymous = not config and bool(as_flag(environ.get("GOOGLE_SKIP_SIGNATURE", "")))
    if anonymous:
        config.clear()
    config["skip_signature"] = bool(anonymous)
    base_url = base_url or first(environ, "GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST")
    if base_url:
        config["base_url"] = check_endpoint(base_url, "endpoint_url")
    told = {**config, "file": _fingerprint(config)}
    return Resolved(config, client, told)


def _token(token: object) -> dict[str, str]:
    """gcsfs's ``token``: a file, a service account's key, or a word for where to look."""
    if isinstance(token, Mapping):
        if token.get("type", "service_account") != "service_account":
            raise ConfigError("option 'token' for gs:// holds no service account; save it and pass its path")
        import json

        return {"service_account_key": json.dumps(dict(token), sort_keys=True)}
    if token in ("google_default", "cloud"):
        return {}
    if isinstance(token, str) and os.path.isfile(token):
        return {"application_credentials": os.path.abspath(token)}
    raise ConfigError(
        "option 'token' for gs:// must be the path of a JSON key, the key as a dict, 'google_default', "
        "'cloud' or 'anon'; a credentials object or a browser login cannot be sent to another process"
    )


def _ambient(environ: Mapping[str, str]) -> dict[str, str]:
    for name, variables in CREDENTIALS.items():
        if value := first(environ, *variables):
            return {name: value}
    home = environ.get("HOME") or os.path.expanduser("~")
    login = os.path.join(home, LOGIN_FILE)
    return {"application_credentials": login} if os.access(login, os.R_OK) else {}


def _fingerprint(config: Mapping[str, Any]) -> bytes:
    """A hash of the key file: another key under the same name is another credential."""
    path = config.get("application_credentials") or config.get("service_account")
    try:
        with open(path, "rb") as file:  # type: ignore[arg-type]  # None is caught below
            return hashlib.blake2b(file.read(), digest_size=16).digest()
    except (OSError, TypeError):
        return b""
