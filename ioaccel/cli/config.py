"""``ioaccel config``: what is in force, and who said so."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json, Sizes, StoreOptions

HIDDEN = "(hidden)"

_STORE_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "S3_", "STORAGE_EMULATOR_HOST")

# What may be shown. Everything else may be a secret, also under a name that nobody has thought of.
_HARMLESS = re.compile(
    r"(?:.*_)?(?:anon|region|region_name|default_region|endpoint|endpoint_url|endpoint_url_s3|endpoint_url_sts"
    r"|profile|profile_name|account_name|project|project_id|use_ssl|verify|ca_bundle|config_file|role_arn"
    r"|shared_credentials_file|web_identity_token_file|skip_signature|request_payer|requester_pays|s3_express"
    r"|virtual_hosted_style_request|connect_timeout|read_timeout|timeout|bucket|emulator_host"
    r"|application_credentials)\Z",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")


def config(
    cache_dir: Directories = None,
    cache_size: Sizes = None,
    option: StoreOptions = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show the settings in force and where each comes from; no secrets."""
    from ioaccel.cli.output import print_facts, print_json, print_table, size
    from ioaccel.config import read_file, runtime_file

    found = CacheArguments(cache_dir, cache_size, option, config).load()
    file, _ = read_file()
    variables = {name: value for name, value in os.environ.items() if name.startswith(_STORE_VARIABLES)}
    settings: dict[str, Any] = {
        "cache_dir": list(found.directories),
        "cache_size": list(found.capacities),
        "consistency": found.consistency,
        "max_age": found.max_age,
        "storage_options": without_secrets(found.storage_options),
    }
    if as_json:
        print_json(
            {
                "file": str(file) if file else None,
                "runtime_file": str(runtime_file()),
                "settings": {n: {"value": v, "from": found.origins[n]} for n, v in settings.items()},
                "environment": without_secrets(variables),
            }
        )
        return
    texts = {
        "cache_dir": ", ".join(found.directories),
        "cache_size": ", ".join(
            "as it was made, or 80% of what is free" if c is None else size(c) for c in found.capacities
        ),
        "consistency": found.consistency,
        "max_age": "not bounded" if found.max_age is None else f"{found.max_age:g} s",
        "storage_options": ", ".join(f"{n}={v}" for n, v in settings["storage_options"].items()) or "none",
    }
    print_facts([("file", str(file) if file else "none found"), ("daemon's file", str(runtime_file()))])
    print()
    rows = [(name, text, found.origins[name]) for name, text in texts.items()]
    rows += [(name, str(value), "environment") for name, value in without_secrets(variables).items()]
    print_table(("setting", "value", "from"), rows)


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with every value hidden that is not known to be harmless; user names in URLs too."""
    shown: dict[str, Any] = {}
    for name, value in sorted(options.items()):
        if isinstance(value, Mapping):
            shown[name] = without_secrets(value)
        elif isinstance(value, bool) or value is None:
            shown[name] = value
        elif _HARMLESS.match(name):
            shown[name] = _USER_INFO.sub("", value) if isinstance(value, str) else value
        else:
            shown[name] = HIDDEN
    return shown
