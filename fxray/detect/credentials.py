"""Content credentials: the signed C2PA manifest of a file, if it has one. Nothing is fetched to check it."""

import io
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from PIL import Image

_OFFLINE = {"version": 1, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_MANY = 5
_ACTIONS = re.compile(r"c2pa\.actions(\.v\d+)?(__\d+)?")
"""With the number of a repeated one; other labels that begin so are a signer's own."""
_UNTRUSTED = "signingCredential.untrusted"


class CredentialState(StrEnum):
    """What became of a manifest."""

    ABSENT = "absent"
    VALID = "valid"
    """Intact, and signed for this very file. By whom is named, not vouched for, unless `is_trusted`."""
    INVALID = "invalid"
    """The file was changed since, or the manifest itself is damaged."""
    UNCHECKED = "unchecked"
    """There is one, and c2pa-python is not installed, or does not know files of this kind."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A C2PA manifest.

    Attributes:
        state: Whether there is one, and whether it holds.
        is_trusted: The signer's certificate is on the list of trusted ones that c2pa-python was given.
        signer: Organisation of the certificate.
        signed: When, as the manifest says; often absent.
        generator: Program that wrote the manifest.
        source_types: IPTC digital source types of its actions: "trainedAlgorithmicMedia", "digitalCapture", ...
        agents: Programs that its actions name.
        problems: Codes of what does not hold, or why c2pa-python did not check it.
    """

    state: CredentialState = CredentialState.ABSENT
    is_trusted: bool = False
    signer: str = ""
    signed: str = ""
    generator: str = ""
    source_types: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_credentials(encoded: bytes, image_format: str) -> Credentials:
    """Looks for a manifest inside a file and checks it.

    Args:
        encoded: The image file.
        image_format: As Pillow names it.
    """
    if b"jumb" not in encoded or b"c2pa" not in encoded:
        return Credentials()
    try:
        import c2pa
    except ImportError:
        return Credentials(CredentialState.UNCHECKED)
    mime = Image.MIME.get(image_format, "")
    try:
        with c2pa.Reader(mime, io.BytesIO(encoded), context=c2pa.Context.from_dict(_OFFLINE)) as reader:
            return _read(json.loads(reader.json()), str(reader.get_validation_state()))
    except (c2pa.C2paError, ValueError) as error:
        kind, _, text = str(error).partition(": ")
        if kind == "ManifestNotFound":
            return Credentials()
        if kind == "NotSupported":
            return Credentials(CredentialState.UNCHECKED, problems=(f"c2pa-python says: {text}"[:200],))
        return Credentials(CredentialState.INVALID, problems=(f"{kind} {text}".strip()[:200],))


def _read(store: Any, state: str) -> Credentials:
    store = _object(store)
    manifest = _object(_object(store.get("manifests")).get(str(store.get("active_manifest"))))
    signature = _object(manifest.get("signature_info"))
    actions = [
        _object(action)
        for assertion in map(_object, _list(manifest.get("assertions")))
        if _ACTIONS.fullmatch(str(assertion.get("label")))
        for action in _list(_object(assertion.get("data")).get("actions"))
    ]
    types = [str(action["digitalSourceType"]).rpartition("/")[2] for action in actions if "digitalSourceType" in action]
    agents = [_name(action["softwareAgent"]) for action in actions if "softwareAgent" in action]
    codes = [str(problem.get("code", "")) for problem in map(_object, _list(store.get("validation_status")))]
    return Credentials(
        state=CredentialState.VALID if state in ("Valid", "Trusted") else CredentialState.INVALID,
        is_trusted=state == "Trusted",
        signer=str(signature.get("issuer") or ""),
        signed=str(signature.get("time") or ""),
        generator=", ".join(_name(info) for info in _list(manifest.get("claim_generator_info"))[:_MANY]),
        source_types=tuple(dict.fromkeys(types))[:_MANY],
        agents=tuple(dict.fromkeys(filter(None, agents)))[:_MANY],
        problems=tuple(dict.fromkeys(code for code in codes if code != _UNTRUSTED))[:_MANY],
    )


def _object(value: Any) -> dict[str, Any]:
    """What a signer wrote where an object belongs; anything may stand there."""
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(program: Any) -> str:
    name = program.get("name") if isinstance(program, dict) else program
    return str(name or "")[:80]
