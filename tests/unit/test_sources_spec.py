"""Options and environment: every spelling, the order of precedence, and who is whom."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ioaccel.errors import ConfigError
from ioaccel.sources import SourceSpec, resolve

KEYS = {"access_key_id": "AK", "secret_access_key": "SK"}
AWS_KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}


def s3(options: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> SourceSpec:
    return resolve("s3", options, {"HOME": "/nonexistent", **(environ or {})})


def config(options: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = s3(options, environ).options["config"]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"key": "AK", "secret": "SK"},
        {"username": "AK", "password": "SK"},
        {"access_key_id": "AK", "secret_access_key": "SK"},
        {"aws_access_key_id": "AK", "aws_secret_access_key": "SK"},
        {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"},
        {"client_kwargs": {"aws_access_key_id": "AK", "aws_secret_access_key": "SK"}},
        {"key": "AK", "secret": "SK", "client_kwargs": {"aws_access_key_id": "other"}},
        {"key": "AK", "aws_access_key_id": "AK", "secret": "SK", "token": None},
        {"s3": {"key": "AK", "secret": "SK"}, "gs": {"token": "anon"}},
        {"s3a": {"key": "AK", "secret": "SK"}},
        {"key": "AK", "secret": "SK", "default_block_size": 1, "asynchronous": True, "use_ssl": True},
    ],
)
def test_every_spelling_of_a_key_is_the_same(options: dict[str, Any]) -> None:
    assert config(options) == KEYS | {"skip_signature": False, "region": "us-east-1"}
    assert s3(options) == s3({"key": "AK", "secret": "SK"})


def test_endpoints_and_regions() -> None:
    found = config({"endpoint_url": "http://127.0.0.1:9000/"})
    assert found["endpoint"] == "http://127.0.0.1:9000"
    assert found["region"] == "us-east-1"
    nested = {"client_kwargs": {"endpoint_url": "https://minio:1", "region_name": "eu", "verify": False}}
    assert config(nested)["endpoint"] == "https://minio:1"
    assert config(nested)["region"] == "eu"
    assert s3(nested).options["client"] == {"allow_invalid_certificates": True}
    assert config({"use_ssl": False})["endpoint"] == "http://s3.us-east-1.amazonaws.com"
    assert "endpoint" not in config()


@pytest.mark.parametrize(
    "endpoint", ["localhost:9000", "ftp://h", "http://", "http://h:99999", "http://a b", ""]
)
def test_endpoints_that_are_no_urls(endpoint: str) -> None:
    if endpoint:
        with pytest.raises(ConfigError, match="endpoint_url is"):
            s3({"endpoint_url": endpoint})
    else:
        assert "endpoint" not in config({"endpoint_url": endpoint})


def test_environment_in_order() -> None:
    environ = {**AWS_KEYS, "AWS_SESSION_TOKEN": "T", "AWS_DEFAULT_REGION": "d"}
    assert config(None, environ) == KEYS | {"session_token": "T", "region": "d", "skip_signature": False}
    assert config(None, environ | {"AWS_REGION": "r"})["region"] == "r"
    names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT_URL"]
    for number, name in enumerate(names):
        given = {each: f"http://{each.lower().replace('_', '-')}" for each in names[number:]}
        assert config(None, given)["endpoint"] == f"http://{name.lower().replace('_', '-')}"


def test_options_win_and_do_not_mix_with_the_environment() -> None:
    environ = {**AWS_KEYS, "AWS_SESSION_TOKEN": "T", "AWS_REGION": "r", "AWS_SKIP_SIGNATURE": "true"}
    found = config({"key": "mine", "secret": "own", "region": "q"}, environ)
    assert found["access_key_id"] == "mine"
    assert "session_token" not in found
    assert found["region"] == "q"
    assert found["skip_signature"] is False
    assert config({"anon": True}, environ) == {"skip_signature": True, "region": "r"}
    assert config({"anon": "false"}, environ)["access_key_id"] == "AK"
    assert config(None, environ)["skip_signature"] is True


def test_nothing_found_leaves_the_nodes_own_credentials() -> None:
    assert config() == {"skip_signature": False, "region": "us-east-1"}


def test_roles_and_containers_are_passed_on() -> None:
    role = {"AWS_ROLE_ARN": "arn", "AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_SESSION_NAME": "s"}
    found = config(None, role)
    assert (found["role_arn"], found["web_identity_token_file"], found["role_session_name"]) == (
        "arn",
        "/t",
        "s",
    )
    found = config(None, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/x"})
    assert found["container_credentials_full_uri"] == "http://169.254.170.23/x"
    assert "role_arn" not in config(None, AWS_KEYS | role)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    aws = tmp_path / ".aws"
    aws.mkdir()
    (aws / "credentials").write_text(
        "[default]\naws_access_key_id = DA\naws_secret_access_key = DS\n"
        "[team]\naws_access_key_id = TA\naws_secret_access_key = TS\naws_session_token = TT%\n"
    )
    (aws / "config").write_text(
        "[default]\nregion = dr\n[profile team]\nregion = tr\nendpoint_url = https://team\n"
        "[profile sso]\nsso_session = x\n"
    )
    return {"HOME": str(tmp_path)}


def test_profiles(home: dict[str, str]) -> None:
    default = config(None, home)
    assert (default["access_key_id"], default["region"]) == ("DA", "dr")
    team = KEYS | {"access_key_id": "TA", "secret_access_key": "TS", "session_token": "TT%", "region": "tr"}
    team |= {"endpoint": "https://team", "skip_signature": False}
    assert config({"profile": "team"}, home | AWS_KEYS) == team
    assert config(None, home | {"AWS_PROFILE": "team"}) == team
    assert config(None, home | {"AWS_PROFILE": "team"} | AWS_KEYS)["access_key_id"] == "AK"
    assert config({"key": "AK", "secret": "SK"}, home)["access_key_id"] == "AK"
    assert "access_key_id" not in config({"anon": True}, home)
    with pytest.raises(ConfigError, match="no AWS profile 'nope'"):
        config({"profile": "nope"}, home)
    with pytest.raises(ConfigError, match=r"sso_session.*export-credentials --profile sso"):
        config({"profile": "sso"}, home)


def test_a_broken_credentials_file(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("no section")
    with pytest.raises(ConfigError, match=str(file)):
        config(None, {"AWS_SHARED_CREDENTIALS_FILE": str(file)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"acess_key_id": "x"}, "'acess_key_id'.*did you mean 'access_key_id'"),
        ({"key": "x"}, "both key and secret"),
        ({"token": "x"}, "all three"),
        ({"key": "a", "access_key_id": "b", "secret": "s"}, "differ"),
        ({"session": threading.Lock()}, "'session'.*another process"),
        ({"credential_provider": len}, "'credential_provider'"),
        ({"retry_config": {"max_retries": 1}}, "retries by itself"),
        (
            {"config_kwargs": {"signature_version": object()}},
            "'config_kwargs.signature_version' for s3:// is a object",
        ),
        ({"config_kwargs": {"proxies": {}}}, "'proxies'"),
        ({"client_kwargs": {"nonsense": 1}}, "'nonsense'"),
        ({"client_kwargs": 3}, "must be a mapping"),
        ({"anon": "perhaps"}, "True or False"),
        ({"key": 3, "secret": "s"}, "'access_key_id'|'key'"),
        ({"s3": {}, "anon": True}, "below the name of its scheme"),
        ({"verify": "/nonexistent.pem"}, "readable PEM"),
        ({"timeout": -1}, "number of seconds"),
        ({"headers": {"a": "b\r\nc"}}, "line breaks"),
        ({"client_options": {"nope": 1}}, "'nope'"),
        ({3: 4}, "string as its name"),
    ],
)
def test_mistakes_are_named(options: dict[Any, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        s3(options)


def test_client_options(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text("PEM")
    found = s3(
        {
            "verify": str(pem),
            "connect_timeout": 2,
            "config_kwargs": {
                "read_timeout": 0.5,
                "retries": {"max_attempts": 3},
                "s3": {"addressing_style": "virtual"},
            },
            "timeout": "1.5",
            "client_options": {"timeout": "30s", "allow_http": True, "default_headers": {"x": "y"}},
        }
    )
    expected = {
        "root_certificate": "PEM",
        "connect_timeout": "2000ms",
        "read_timeout": "500ms",
        "timeout": "1500ms",
    }
    assert found.options["client"] == expected | {"default_headers": {"x": "y"}}
    assert found.options["config"]["virtual_hosted_style_request"] is True
    assert s3(None, {"AWS_CA_BUNDLE": str(pem)}).options["client"] == {"root_certificate": "PEM"}


def test_identity_tells_endpoints_and_credentials_apart() -> None:
    variants = [
        s3(),
        s3({"anon": True}),
        s3({"key": "a", "secret": "b"}),
        s3({"key": "a", "secret": "c"}),
        s3({"key": "a", "secret": "b", "token": "t"}),
        s3({"key": "a", "secret": "b", "endpoint_url": "http://x"}),
        s3({"key": "a", "secret": "b", "endpoint_url": "http://y"}),
        s3(None, {"AWS_ROLE_ARN": "r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}),
        resolve("gs", {"token": "anon"}, {}),
        resolve("az", {"account_name": "a", "anon": True}, {}),
        resolve("az", {"account_name": "b", "anon": True}, {}),
        resolve("http", None, {}),
        resolve("https", None, {}),
        resolve("https", {"headers": {"Authorization": "x"}}, {}),
        resolve("file", None, {}),
        resolve("memory", None, {}),
        resolve("sftp", {"host": "a"}, {}),
        resolve("sftp", {"host": "b"}, {}),
    ]
    assert len({spec.identity for spec in variants}) == len(variants)
    assert all(len(spec.identity) == 16 for spec in variants)


def test_identity_does_not_depend_on_what_does_not_name_the_data() -> None:
    base = s3({"key": "a", "secret": "b"})
    for more in (
        {"region": "eu-west-1"},
        {"connect_timeout": 1},
        {"requester_pays": True},
        {"max_concurrency": 3},
    ):
        assert s3({"key": "a", "secret": "b", **more}).identity == base.identity


def test_a_spec_crosses_processes_and_hides_its_secrets() -> None:
    spec = s3({"key": "a", "secret": "hidden-thing", "endpoint_url": "http://x"})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=SourceSpec) == spec
    assert "hidden-thing" not in repr(spec)
    assert spec.identity.hex() in repr(spec)
    assert len({spec, s3({"key": "a", "secret": "hidden-thing", "endpoint_url": "http://x"})}) == 1


def test_importing_the_client_side_reads_no_store() -> None:
    import subprocess
    import sys

    script = "import sys, ioaccel.sources; print({'obstore', 'fsspec', 'aiofiles'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
