"""Content credentials: the signed C2PA manifest of a file, if it has one. Nothing is fetched to check it."""

import io
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from PIL import Image

_OFFLINE = {"version": 1, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_MANY = 5
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


def _read(store: dict[str, Any], state: str) -> Credentials:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = manifest.get("signature_info") or {}
    actions = [
        action
        for assertion in manifest.get("assertions", ())
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions", ())
    ]
    types = [str(action["digitalSourceType"]).rpartition("/")[2] for action in actions if "digitalSourceType" in action]
    agents = [_name(action["softwareAgent"]) for action in actions if "softwareAgent" in action]
    codes = [str(problem.get("code", "")) for problem in store.get("validation_status") or ()]
    return Credentials(
        state=CredentialState.VALID if state in ("Valid", "Trusted") else CredentialState.INVALID,
        is_trusted=state == "Trusted",
        signer=str(signature.get("issuer") or ""),
        signed=str(signature.get("time") or ""),
        generator=", ".join(_name(info) for info in (manifest.get("claim_generator_info") or ())[:_MANY]),
        source_types=tuple(dict.fromkeys(types))[:_MANY],
        agents=tuple(dict.fromkeys(filter(None, agents)))[:_MANY],
        problems=tuple(dict.fromkeys(code for code in codes if code != _UNTRUSTED))[:_MANY],
    )


def _name(program: Any) -> str:
    name = program.get("name") if isinstance(program, dict) else program
    return str(name or "")[:80]
