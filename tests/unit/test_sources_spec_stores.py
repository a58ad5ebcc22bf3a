"""Options of the stores that are not S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ioaccel.errors import ConfigError
from ioaccel.sources import resolve


def test_google(tmp_path: Path) -> None:
    def gs(options: dict[str, Any] | None, environ: dict[str, str] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = resolve("gs", options, {"HOME": str(tmp_path), **(environ or {})}).options[
            "config"
        ]
        return found

    key = tmp_path / "key.json"
    key.write_text("{}")
    file = {"application_credentials": str(key), "skip_signature": False}
    assert gs({"token": str(key), "project": "p"}) == file
    assert gs({"gcs": {"application_credentials": str(key)}}) == file
    assert gs(None, {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}) == file
    assert gs({"token": "anon"}, {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}) == {"skip_signature": True}
    assert (
        gs({"token": {"type": "service_account", "a": 1}})["service_account_key"]
        == '{"a": 1, "type": "service_account"}'
    )
    assert gs(None) == gs({"token": "google_default"}) == {"skip_signature": False}
    assert gs(None, {"STORAGE_EMULATOR_HOST": "http://h:1"})["base_url"] == "http://h:1"
    login = tmp_path / ".config/gcloud/application_default_credentials.json"
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    assert gs(None)["application_credentials"] == str(login)
    for bad in (
        {"token": "browser"},
        {"token": {"type": "authorized_user"}},
        {"token": str(key), "bearer_token": "b"},
    ):
        with pytest.raises(ConfigError):
            gs(bad)
    before = resolve("gs", {"token": str(key)}, {}).identity
    key.write_text('{"another": "key"}')
    assert resolve("gs", {"token": str(key)}, {}).identity != before


def test_azure() -> None:
    def az(options: dict[str, Any] | None, environ: dict[str, str] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = resolve("abfs", options, environ or {}).options["config"]
        return found

    keyed = {
        "account_name": "a",
        "account_key": "k",
        "skip_signature": False,
        "credential_type": "access_key",
    }
    assert az({"account_name": "a", "account_key": "k"}) == keyed
    assert az({"connection_string": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k"}) == keyed
    assert az(None, {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=k"}) == keyed
    assert az(None, {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "k"}) == keyed
    china = az({"connection_string": "AccountName=a;AccountKey=k==;EndpointSuffix=core.chinacloudapi.cn"})
    assert china["endpoint"] == "https://a.blob.core.chinacloudapi.cn"
    assert china["account_key"] == "k=="
    sas = az({"account_name": "a", "sas_token": "?sv=1"}, {"AZURE_STORAGE_ACCOUNT_KEY": "other"})
    assert (sas["sas_key"], sas["credential_type"]) == ("sv=1", "sas_token")
    assert "account_key" not in sas
    assert az({"account_name": "a", "anon": True}, {"AZURE_STORAGE_ACCOUNT_KEY": "k"}) == {
        "account_name": "a",
        "skip_signature": True,
    }
    for bad in (
        {},
        {"connection_string": "x"},
        {"account_name": "a", "credential": object()},
        {"account": "a"},
    ):
        with pytest.raises(ConfigError):
            az(bad)


def test_other_schemes() -> None:
    assert resolve("file", {"auto_mkdir": True}, {}).kind == "local"
    assert resolve("memory", {"x": [1, {"y": b"z"}]}, {}).options == {"x": [1, {"y": b"z"}]}
    assert resolve("http", {"client_kwargs": {"headers": {"a": "b"}}}, {}).options["client"] == {
        "default_headers": {"a": "b"}
    }
    with pytest.raises(ConfigError, match=r"'target_options\.fs'"):
        resolve("zip", {"target_options": {"fs": object()}}, {})
    with pytest.raises(ConfigError, match="knows no option 'block'"):
        resolve("http", {"block": 1}, {})
