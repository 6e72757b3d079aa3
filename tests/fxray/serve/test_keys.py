import hashlib
import secrets

import pytest

from fxray.errors import ConfigError
from fxray.serve.keys import ENVIRONMENT, add_key, read_keys
from fxray.serve.rate import RateLimiter


def test_a_file_knows_its_keys_and_holds_none(tmp_path):
    file = tmp_path / "keys.txt"
    ana, ben = add_key(file, "ana"), add_key(file, "ben")
    ring = read_keys(file)
    assert (ring.owner(ana), ring.owner(ben), ring.owner(ana[:-1])) == ("ana", "ben", None)
    assert ana not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_name_has_one_key(tmp_path):
    add_key(tmp_path / "keys.txt", "ana")
    with pytest.raises(ConfigError, match="already"):
        add_key(tmp_path / "keys.txt", "ana")
    with pytest.raises(ConfigError, match="name 'a:b'"):
        add_key(tmp_path / "keys.txt", "a:b")


def test_keys_that_are_made_at_once_are_all_kept(tmp_path, monkeypatch):
    file, names = tmp_path / "new" / "keys.txt", iter(["ben", "cid"])

    def meanwhile(num_bytes):
        for name in names:
            add_key(file, name)
        return "x" * num_bytes

    monkeypatch.setattr(secrets, "token_urlsafe", meanwhile)
    key = add_key(file, "ana")
    assert read_keys(file).owner(key) is not None
    assert sorted(line.partition(":")[0] for line in file.read_text().splitlines()) == ["ana", "ben", "cid"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_last_line_without_an_end_stays_a_line_of_its_own(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text("# of the newsroom")
    key = add_key(file, "ana")
    assert read_keys(file).owner(key) == "ana"
    assert file.read_text().splitlines()[0] == "# of the newsroom"


def test_keys_may_come_in_the_environment(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "fxray_one, fxray_two")
    assert read_keys(None).owner("fxray_two") == f"environment-{hashlib.sha256(b'fxray_two').hexdigest()[:8]}"
    assert read_keys(None).owner("") is None


def test_each_key_of_the_environment_is_an_owner_of_its_own(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "fxray_one,fxray_two")
    ring = read_keys(None)
    assert ring.owner("fxray_one") != ring.owner("fxray_two")
    monkeypatch.setenv(ENVIRONMENT, "fxray_three,fxray_one")
    assert read_keys(None).owner("fxray_one") == ring.owner("fxray_one")  # whose batches are found after a restart


def test_a_broken_file_is_refused_with_its_line(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text("# keys\nana:plain-text-key\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent.txt")


def test_no_key_is_added_to_what_is_no_file_of_keys(tmp_path):
    file = tmp_path / "bin.yaml"
    file.write_bytes(b"\xff\xfe\x00k")
    for other in (file, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            add_key(other, "bob")
    assert file.read_bytes() == b"\xff\xfe\x00k"


def test_a_bucket_fills_evenly():
    now = [0.0]
    limiter = RateLimiter(60, clock=lambda: now[0])
    assert limiter.take("ana", 50) == 0
    assert limiter.take("ana", 20) == pytest.approx(10)  # 10 are left, one comes each second
    assert limiter.take("ben", 60) == 0
    now[0] = 10.0
    assert limiter.take("ana", 20) == 0
    assert limiter.take("ana", 1) == pytest.approx(1)
    assert limiter.take("cleo", 500) == 0  # more than a bucket holds takes all of it
    assert limiter.take("cleo", 1) > 0


def test_what_is_given_back_can_be_taken_again():
    limiter = RateLimiter(60, clock=lambda: 0.0)
    assert limiter.take("ana", 500) == 0
    limiter.give_back("ana", 500)
    assert limiter.wait_s("ana", 60) == 0
    limiter.give_back("ana", 60)  # a bucket holds no more than it holds
    assert limiter.take("ana", 60) == 0
    assert limiter.wait_s("ana") == pytest.approx(1)


def test_no_limit_is_no_limit():
    assert RateLimiter(0).take("ana", 10**9) == 0
