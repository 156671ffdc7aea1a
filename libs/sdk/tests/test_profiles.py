"""Where settings come from."""

import stat
from pathlib import Path

import pytest

from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError, NotConfigured
from moorage_sdk.profiles import Profile, load_profile, resolve, save_profile


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MOORAGE_REGISTRY", "MOORAGE_ROUTER", "MOORAGE_API_KEY", "MOORAGE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config" / "profiles.yaml"
    monkeypatch.setenv("MOORAGE_PROFILE_FILE", str(path))
    return path


def test_only_the_owner_may_read_the_file_and_other_profiles_stay(file: Path) -> None:
    save_profile(Profile("http://a", "http://b", "k1"))
    save_profile(Profile("http://c", "http://d", "k2"), "staging")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_profile() == Profile("http://a", "http://b", "k1")
    assert load_profile("staging") == Profile("http://c", "http://d", "k2")


def test_an_argument_goes_before_a_variable_and_that_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save_profile(Profile("http://file", "http://file", "file"))
    monkeypatch.setenv("MOORAGE_ROUTER", "http://variable/")
    monkeypatch.setenv("MOORAGE_API_KEY", "variable")
    assert resolve(api_key="argument") == Profile("http://file", "http://variable", "argument")


def test_a_profile_asked_for_by_name_goes_before_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    save_profile(Profile("http://file", "", "file"), "staging")
    monkeypatch.setenv("MOORAGE_API_KEY", "variable")
    monkeypatch.setenv("MOORAGE_ROUTER", "http://variable")
    assert resolve(profile="staging") == Profile("http://file", "http://variable", "file")


def test_a_profile_that_is_not_there_says_which_are() -> None:
    save_profile(Profile("http://a", "http://b", "k"))
    with pytest.raises(NotConfigured, match=r"no profile 'prod' \(there are: default\)"):
        load_profile("prod")


def test_a_missing_setting_names_itself() -> None:
    with Client() as client, pytest.raises(NotConfigured, match=r"MOORAGE_REGISTRY is not set; .*moorage login"):
        client.registry.whoami()
    with Client(registry="http://127.0.0.1:9") as client, pytest.raises(NotConfigured, match="MOORAGE_API_KEY"):
        client.registry.whoami()


def test_a_platform_that_is_not_there_is_said_to_be_unreachable() -> None:
    nowhere = "http://127.0.0.1:9"
    with Client(nowhere, nowhere, "key") as client, pytest.raises(MoorageApiError, match="did not answer") as caught:
        client.registry.whoami()
    assert (caught.value.status, caught.value.code) == (0, "unreachable")


def test_a_key_is_not_in_a_profiles_text() -> None:
    assert "secret" not in repr(Profile("http://a", "http://b", "secret"))
