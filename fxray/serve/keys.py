"""API keys: who may ask. A file holds names and SHA-256 sums, never a key.

A key is 32 random bytes, so one round of SHA-256 protects it: there is no short list of keys to try.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fxray.errors import ConfigError
from fxray.files import append_line, make_folder
from fxray.serve.problems import Refusal
from fxray.serve.rate import RateLimiter

ENVIRONMENT = "FXRAY_API_KEYS"
"""Keys in plain, separated by commas, for where secrets come as environment variables; each is an owner of its own."""
ANONYMOUS = "anonymous"
WRONG_KEYS_PER_MIN = 10
"""Of one address; then its keys are not looked at for a while."""
_PREFIX = "fxray_"
_LINE = re.compile(r"([\w.-]{1,64}):([0-9a-f]{64})")


@dataclass(frozen=True)
class KeyRing:
    """The keys that are known.

    Attributes:
        owners: Name of the owner by SHA-256 of the key.
    """

    owners: Mapping[str, str]

    def owner(self, key: str) -> str | None:
        """Who a key belongs to. Every known key is compared, in constant time."""
        digest, found = _digest(key), None
        for known, owner in self.owners.items():
            if hmac.compare_digest(digest, known):
                found = owner
        return found


class Doorkeeper:
    """Lets requests in by their key, and keeps guesses slow.

    Args:
        ring: The keys.
        wrong_keys: Counts wrong keys by address.
        needs_keys: False lets everybody in as `ANONYMOUS`.
    """

    def __init__(self, ring: KeyRing, wrong_keys: RateLimiter, *, needs_keys: bool) -> None:
        self._ring, self._wrong_keys, self._needs_keys = ring, wrong_keys, needs_keys

    def admit(self, authorization: str | None, address: str) -> str:
        """The owner of the key in an Authorization header.

        Raises:
            Refusal: 401 without a key that is known, 429 after too many wrong ones.
        """
        if not self._needs_keys:
            return ANONYMOUS
        wait_s = self._wrong_keys.wait_s(address)
        if wait_s > 0:
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong API keys from this address",
                remedy="wait, then send the key that you were given",
                retry_after_s=wait_s,
            )
        scheme, _, key = (authorization or "").partition(" ")
        owner = self._ring.owner(key.strip()) if scheme.lower() == "bearer" and key else None
        if owner is None:
            if authorization:
                self._wrong_keys.take(address, 1)
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "this API key is not known" if authorization else "an API key is needed",
                where="header Authorization",
                remedy="send `Authorization: Bearer KEY`",
            )
        return owner


def read_keys(file: Path | None) -> KeyRing:
    """The keys of a file and of the environment.

    Raises:
        ConfigError: The file is missing, or a line of it is no `name:sha256`.
    """
    digests = [_digest(key.strip()) for key in os.environ.get(ENVIRONMENT, "").split(",") if key.strip()]
    owners = {digest: f"environment-{digest[:8]}" for digest in digests}
    if file is None:
        return KeyRing(owners)
    for number, line in enumerate(_lines(file, remedy=f"make it with `fxray key NAME --file {file}`"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ConfigError(
                "is no `name:sha256`, expected a line that `fxray key` wrote",
                where=f"{file}, line {number}",
                remedy="remove the line, and make the key anew with `fxray key`",
            )
        owners[match[2]] = match[1]
    return KeyRing(owners)


def add_key(file: Path, name: str) -> str:
    """Makes a key, and adds its sum to the file, which only its owner can read; others may add theirs at the same time.

    Returns:
        The key; it is nowhere else.

    Raises:
        ConfigError: The name has other characters than letters, digits, `.`, `_`, `-`, or is there already; or
            the file cannot be read.
        ResourceError: The disk is full or not writable.
    """
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise ConfigError(f"name {name!r}, expected 1 to 64 letters, digits, `.`, `_` or `-`", remedy="choose another")
    lines = _lines(file, remedy="name a file of keys, or one that is not there yet") if file.exists() else []
    if any(line.startswith(f"{name}:") for line in lines):
        raise ConfigError(
            f"holds a key of {name!r} already", where=str(file), remedy="remove its line first, which ends that key"
        )
    key = _PREFIX + secrets.token_urlsafe(32)
    make_folder(file.parent)
    is_new_line = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    append_line(file, f"{'' if is_new_line else chr(10)}{name}:{_digest(key)}")
    file.chmod(0o600)
    return key


def _lines(file: Path, *, remedy: str) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(file), remedy=remedy
        ) from error


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
