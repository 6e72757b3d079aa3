"""What a file says of itself: signed manifests, traces of generators, and what is about people."""

import io
import json
import random
import re
import sys
import time
from types import SimpleNamespace

import pytest
from PIL import Image, PngImagePlugin

from fxray.data.images import open_image
from fxray.detect.credentials import Credentials, CredentialState, read_credentials
from fxray.detect.metadata import MAX_FIELD_CHARACTERS
from fxray.detect.provenance import FRAMES, NOTHING, Provenance, _generators, impersonal, read_provenance, words_of
from fxray.errors import DataError

SOURCE_TYPE, IPTC_NAME = "xmp:DigitalSourceType", "IPTC digital source type"
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype"
WEB_UI = (
    "a fox, in C:\\Users\\anna\\loras\\fox\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"
)

JOB = "--v 6 Job ID: 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"


def png(texts: dict[str, str]) -> bytes:
    chunks, encoded = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in texts.items():
        chunks.add_itxt(key, value) if key.startswith("XML") else chunks.add_text(key, value)
    Image.new("RGB", (8, 8)).save(encoded, "PNG", pnginfo=chunks)
    return encoded.getvalue()


def jpeg(exif: dict[int, object] | None = None, parts: dict[int, dict[int, object]] | None = None, **saved) -> bytes:
    tags, encoded = Image.Exif(), io.BytesIO()
    tags.update(exif or {})
    for part, values in (parts or {}).items():
        tags.get_ifd(part).update(values)
    Image.new("RGB", (8, 8)).save(encoded, "JPEG", exif=tags, **saved)
    return encoded.getvalue()


def comment(prompt: str, encoding: str = "utf-16-be") -> dict[int, dict[int, object]]:
    """Settings in a user comment of EXIF, as the web UI writes them."""
    return {0x8769: {0x9286: b"UNICODE\0" + f"{prompt}\nSteps: 20, Sampler: Euler a, Seed: 1".encode(encoding)}}


def xmp(source_type: str, more: str = "") -> str:
    return f'<x:xmpmeta><rdf:Description Iptc4xmpExt:DigitalSourceType="{IPTC}/{source_type}"/>{more}</x:xmpmeta>'


def read(encoded: bytes, **options) -> Provenance:
    image = open_image(encoded, "")
    image.load()
    return read_provenance(encoded, image, **options)


def text_of(found: Provenance) -> str:
    return "\n".join(words_of(json.loads(json.dumps(found.as_json()))))


@pytest.mark.parametrize(
    ("encoded", "by", "says", "place"),
    [
        (png({"parameters": WEB_UI}), "Stable Diffusion web UI", "generated", "png:parameters"),
        (jpeg(parts=comment("a fox")), "Stable Diffusion web UI", "generated", "exif:UserComment"),
        (jpeg(parts=comment("一只猫")), "Stable Diffusion web UI", "generated", "exif:UserComment"),
        (jpeg(parts=comment("портрет девушки")), "Stable Diffusion web UI", "generated", "exif:UserComment"),
        (jpeg(parts=comment("👩 portrait")), "Stable Diffusion web UI", "generated", "exif:UserComment"),
        (jpeg(parts=comment("\ufeffa fox")), "Stable Diffusion web UI", "generated", "exif:UserComment"),
        (jpeg(parts=comment("一只猫", "utf-16-le")), "Stable Diffusion web UI", "generated", "exif:UserComment"),
        (jpeg(parts=comment("\ufeffa fox", "utf-16-le")), "Stable Diffusion web UI", "generated", "exif:UserComment"),
        (png({"prompt": '{"3": {"class_type": "KSampler"}}'}), "ComfyUI", "generated", "png:prompt"),
        (png({"workflow": '{"last_node_id": 9, "nodes": []}'}), "ComfyUI", "generated", "png:workflow"),
        (png({"invokeai_metadata": "{}"}), "InvokeAI", "generated", "png:invokeai_metadata"),
        (png({"Software": "NovelAI", "Comment": "{}"}), "NovelAI", "generated", "png:Software"),
        (png({"Description": f"a fox {JOB}"}), "Midjourney", "generated", "png:Description"),
        (jpeg({0x0131: "AI generated;txt2img;flux"}), "Black Forest Labs FLUX", "generated", "exif:Software"),
        (png({"XML:com.adobe.xmp": xmp("trainedAlgorithmicMedia")}), IPTC_NAME, "generated", SOURCE_TYPE),
        (jpeg(xmp=xmp("compositeWithTrainedAlgorithmicMedia").encode()), IPTC_NAME, "edited", SOURCE_TYPE),
        (jpeg(xmp=xmp("digitalCapture").encode()), IPTC_NAME, "camera", SOURCE_TYPE),
        (png({"XML:com.adobe.xmp": '<TC260:AIGC>{"Label":"1"}</TC260:AIGC>'}), "AIGC label", "generated", "xmp:AIGC"),
        (jpeg(xmp=b"<photoshop:Credit>Made with Google AI</photoshop:Credit>"), "Google", "generated", "xmp:Credit"),
    ],
)  # fmt: skip
def test_generators_are_known_by_what_they_write(encoded: bytes, by: str, says: str, place: str) -> None:
    assert (by, says, place) in [(mark.by, mark.says, mark.place) for mark in read(encoded).marks]


@pytest.mark.parametrize("known", [known for known in _generators() if known["match"]], ids=lambda known: known["by"])
def test_a_field_full_of_a_generators_words_takes_little_time(known: dict) -> None:
    for words in filter(None, re.split(r"\\[bds][*+]?|\.[*?]|[\\^?+()|]", known["match"].pattern)):
        begin_s = time.thread_time()
        known["match"].search((words * MAX_FIELD_CHARACTERS)[:MAX_FIELD_CHARACTERS])
        assert time.thread_time() - begin_s < 0.5


@pytest.mark.parametrize(
    "encoded",
    [
        png({"Software": "gnome-screenshot", "Description": "Steps: of a house", "Author": "Joan Midgley"}),
        jpeg({0x010F: "Canon", 0x0110: "EOS R5", 0x0131: "darktable"}),
        png({"prompt": "what do you see?", "parameters": "none"}),
    ],
)
def test_ordinary_files_bear_no_mark_and_that_proves_nothing(encoded: bytes) -> None:
    found = read(encoded)
    assert found.marks == ()
    assert found.credentials.state is CredentialState.ABSENT
    assert NOTHING in text_of(found)


def test_what_is_about_people_is_left_out_unless_it_is_asked_for() -> None:
    encoded = jpeg(
        {0x010F: "Canon", 0x0110: "EOS R5", 0x013B: "Anna Petrova", 0x8298: "(c) Petrova"},
        {
            0x8769: {0xA431: "SN-0815", 0x9003: "2026:05:04 10:00:00", 0x927C: b"maker-secret"},
            0x8825: {1: "N", 2: (52.0, 30.0, 36.0), 3: "W", 4: (13.0, 22.0, 12.0)},
        },
        xmp=b"<dc:creator>Petrova, Anna</dc:creator>",
    )
    shared = read(encoded)
    text = text_of(shared) + json.dumps(shared.as_json())
    assert not any(secret in text for secret in ("Petrova", "SN-0815", "52.", "13.3", "maker-secret"))
    assert shared.withheld == (
        "author", "copyright", "maker note", "position (GPS)", "serial number of the camera",
    )  # fmt: skip
    assert shared.camera == {"camera": "Canon EOS R5", "taken": "2026:05:04 10:00:00"}
    full = read(encoded, keeps_personal=True)
    assert full.withheld == ()
    assert full.personal["position (GPS)"] == "52.51000, -13.37000"
    assert full.personal["author"] == "Anna Petrova"


@pytest.mark.parametrize(("form", "num"), [("GIF", 3), ("PNG", 2), ("WEBP", 2), ("TIFF", 2), ("GIF", 1), ("PNG", 1)])
def test_an_animation_says_that_its_first_frame_alone_was_examined(form: str, num: int) -> None:
    frames, encoded = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(num)], io.BytesIO()
    frames[0].save(encoded, form, **({"save_all": True, "append_images": frames[1:]} if num > 1 else {}))
    image = open_image(encoded.getvalue(), "a")
    image.load()
    found = read_provenance(encoded.getvalue(), image)
    assert found.has_more_frames is (num > 1)
    assert (FRAMES in words_of(found.as_json())) is (num > 1)
    assert words_of(found.as_json())[0] == NOTHING
    earlier = {name: value for name, value in found.as_json().items() if name != "has_more_frames"}
    assert FRAMES not in words_of(earlier)


def test_prompts_lose_paths_and_addresses() -> None:
    (mark,) = read(png({"parameters": WEB_UI})).marks
    assert mark.text.startswith("a fox, in [path] Negative prompt: blur Steps: 20")
    assert "anna" in read(png({"parameters": WEB_UI}), keeps_personal=True).marks[0].text
    for path in (
        r"C:\Users\Anna May\m.safetensors", "D:/models/Anna May Bo/m.ckpt", "/Volumes/Anna/m.png", "/scratch/anna/m",
        "/content/drive/Anna May/m.png", "~/anna/m",
    ):  # fmt: skip
        assert impersonal(f"by {path}, 1/2 see https://example.org/a") == "by [path], 1/2 see https://example.org/a"
    assert impersonal("/home/anna/m.safetensors by anna@example.org, 1/2") == "[path] by [address], 1/2"


@pytest.mark.parametrize("name", [r"C:\Users\Anna Petrova Smith\models\m.ckpt", "anna.petrova@example.org"])
def test_a_prompt_that_is_cut_within_a_path_or_an_address_tells_no_name(name: str) -> None:
    for padding in range(200, 301):
        (mark,) = read(png({"parameters": f"{'a' * padding} {name}\nSteps: 20, Sampler: Euler a"})).marks
        assert len(mark.text) <= 300
        assert "anna" not in mark.text.lower()
        assert "petrova" not in mark.text.lower()


def test_fields_of_windows_are_utf_16() -> None:
    found = read(jpeg({0x9C9D: "Анна Петрова\0".encode("utf-16-le")}), keeps_personal=True)
    assert found.personal["author"] == "Анна Петрова"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(60))
def test_damaged_metadata_is_said_and_never_an_error(seed: int) -> None:
    encoded = bytearray(jpeg({0x013B: "x" * 40}, {0x8825: {1: "N", 2: (1.0, 2.0, 3.0)}}))
    chance = random.Random(seed)
    for _ in range(4):
        encoded[chance.randrange(2, 300)] = chance.randrange(256)
    try:
        image = open_image(bytes(encoded), "")
    except DataError:
        return
    found = read_provenance(bytes(encoded), image)
    assert found.marks == ()
    assert text_of(found)


def test_a_manifest_is_noticed_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = read_credentials(b"...jumb...c2pa...", "JPEG")
    assert found.state is CredentialState.UNCHECKED
    assert read_credentials(b"plain", "JPEG").state is CredentialState.ABSENT
    assert "unchecked" in text_of(Provenance(found))


class NotKnown:
    """Stands for c2pa-python where a file is of a kind that it does not know."""

    C2paError = RuntimeError
    Context = SimpleNamespace(from_dict=dict)

    @staticmethod
    def Reader(mime: str, file: object, context: object) -> None:
        raise RuntimeError("NotSupported: type is unsupported")


def test_credentials_in_a_file_of_a_kind_that_is_not_known_are_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", NotKnown)
    found = read_credentials(b"...jumb...c2pa...", "BMP")
    assert found.state is CredentialState.UNCHECKED
    assert text_of(Provenance(found)).endswith("(C2PA), unchecked: c2pa-python says: type is unsupported.")


def sign(source: bytes) -> bytes:
    """The JPEG with a manifest that certificates of this test sign."""
    c2pa = pytest.importorskip("c2pa")
    certificates, key = _certificates()
    action = {
        "action": "c2pa.created",
        "softwareAgent": {"name": "DALL-E <b>"},
        "digitalSourceType": f"{IPTC}/trainedAlgorithmicMedia",
    }
    manifest = {
        "claim_generator_info": [{"name": "Painter"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    signer, target = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", certificates, key, None)), io.BytesIO()
    c2pa.Builder.from_json(json.dumps(manifest)).sign(signer, "image/jpeg", io.BytesIO(source), target)
    return target.getvalue()


def noise(image_format: str, **saved) -> bytes:
    encoded = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(encoded, image_format, **saved)
    return encoded.getvalue()


@pytest.fixture(scope="module")
def signed() -> bytes:
    return sign(noise("JPEG"))


def test_a_signed_jpeg_with_a_second_picture_is_valid() -> None:
    signed = sign(noise("MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]))
    assert Image.open(io.BytesIO(signed)).format == "MPO"
    assert read(signed).credentials.state is CredentialState.VALID


def test_what_a_manifest_says_is_harmless_text_and_only_a_mismatch_is_a_change() -> None:
    broken = Credentials(CredentialState.INVALID, problems=("\x1b[31msigningCredential.expired",))
    assert text_of(Provenance(broken)).endswith("do not hold: [31msigningCredential.expired.")
    sound = Credentials(CredentialState.VALID, signer="A\x1b[2J", agents=("B\n\x07",))
    assert "signed by A [2J, not" in text_of(Provenance(sound))
    assert text_of(Provenance(sound)).isprintable()


def test_a_signed_manifest_is_valid_until_the_file_changes(signed: bytes) -> None:
    found = read(signed)
    assert (found.credentials.state, found.credentials.is_trusted) == (CredentialState.VALID, False)
    assert found.credentials.signer == "fxray tests"
    assert [(mark.by, mark.says, mark.place) for mark in found.marks] == [("DALL-E <b>", "generated", "c2pa")]
    assert "intact, signed by fxray tests, not checked against a list of trusted signers" in text_of(found)
    changed = bytearray(signed)
    changed[-40] ^= 0x55
    broken = read(bytes(changed))
    assert broken.credentials.state is CredentialState.INVALID
    assert broken.credentials.problems == ("assertion.dataHash.mismatch",)
    assert broken.marks == ()
    assert "do not hold" in text_of(broken)
    cut = signed[:200] + signed[2000:]
    assert read_credentials(cut, "JPEG").state is CredentialState.INVALID


def _certificates() -> tuple[bytes, bytes]:
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now, keys = dt.datetime.now(dt.UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fxray tests"),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )
        for common in ("root", "signer")
    ]
    made = []
    for k, (name, key) in enumerate(zip(names, keys, strict=True)):
        usage = dict.fromkeys(
            (
                "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
            ),
            False,
        )  # fmt: skip
        usage["digital_signature" if k else "key_cert_sign"] = True
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(k + 1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=not k, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        )
        if k:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
            )
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key_pem = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made[1] + made[0], key_pem
