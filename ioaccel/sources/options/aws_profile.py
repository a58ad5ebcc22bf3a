"""Credentials, region and endpoint of a profile in ``~/.aws``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ioaccel.errors import ConfigError

# Ways of a profile to get credentials that need the AWS tools.
_INDIRECT = ("role_arn", "credential_process", "sso_session", "sso_start_url", "login_session")


@dataclass(frozen=True)
class Profile:
    """What the files say under one name; ``settings`` is None if they do not have it."""

    name: str
    settings: dict[str, str] | None

    @property
    def keys(self) -> dict[str, str]:
        """Key, secret and token under obstore's names; empty if they are not written down."""
        settings = self.settings or {}
        if "aws_access_key_id" not in settings or "aws_secret_access_key" not in settings:
            return {}
        names = ("access_key_id", "secret_access_key", "session_token")
        return {name: value for name in names if (value := settings.get(f"aws_{name}"))}

    @property
    def region(self) -> str | None:
        return (self.settings or {}).get("region")

    @property
    def endpoint(self) -> str | None:
        return (self.settings or {}).get("endpoint_url")

    def require_keys(self) -> dict[str, str]:
        """`keys`, of a profile that somebody named. ConfigError if it does not exist, or gets its
        credentials in a way that only the AWS tools know; a profile without any leaves them to the node."""
        if self.settings is None:
            raise ConfigError(f"there is no AWS profile {self.name!r} in ~/.aws/credentials or ~/.aws/config")
        indirect = next((way for way in _INDIRECT if way in self.settings), None)
        if indirect and not self.keys:
            raise ConfigError(
                f"AWS profile {self.name!r} gets its credentials through {indirect}, which ioaccel cannot "
                f"follow; run: eval $(aws configure export-credentials --profile {self.name} --format env)"
            )
        return self.keys


def read_profile(name: str, environ: Mapping[str, str]) -> Profile:
    """The profile ``name`` of the shared credentials and configuration files, the first of which wins.

    ``$AWS_SHARED_CREDENTIALS_FILE`` and ``$AWS_CONFIG_FILE`` name other files. ConfigError if one of
    them cannot be understood.
    """
    secret = _section(environ, "AWS_SHARED_CREDENTIALS_FILE", "credentials", name)
    common = _section(environ, "AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}")
    if secret is None and common is None:
        return Profile(name, None)
    return Profile(name, {**(common or {}), **(secret or {})})


def _section(environ: Mapping[str, str], variable: str, file: str, name: str) -> dict[str, str] | None:
    home = environ.get("HOME") or os.path.expanduser("~")
    path = os.path.expanduser(environ.get(variable) or os.path.join(home, ".aws", file))
    if not os.access(path, os.R_OK):
        return None
    import configparser  # 5 ms that most users need not pay

    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration file: {error}") from error
    return dict(parser[name]) if parser.has_section(name) else None
