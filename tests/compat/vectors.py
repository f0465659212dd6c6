"""Computes the vectors of CRYPTO.md again, with libraries that Farshore does not use, and compares them with vectors.json.

`vectors.py FILE`. It needs what reader.py needs. Where Farshore draws randomness, every byte of it is 0x55 here.
"""

import hashlib
import hmac
import json
import struct
import sys
import unicodedata
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RANDOM = b"\x55" * 32
VAULT, LINEAGE, SESSION, PACK, RUN, HOST = (bytes([number]) * 16 for number in range(1, 7))
HASH, OTHER = b"\x07" * 32, b"\x08" * 32
FRONT = b"FARSHORE" + struct.pack("<H", 1)


def rising(first: int) -> bytes:
    return bytes((first + at) % 256 for at in range(32))


def hkdf(key: bytes, info: bytes, size: int = 32) -> bytes:
    return HKDFExpand(SHA512(), size, info).derive(key)


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


MEMBER, RUNS_KEY = rising(0x20), rising(0x80)
METADATA, CONTENT = rising(0x40), rising(0x60)
OF_MEMBER = {name: hkdf(MEMBER, b"farshore/1/member/" + name.encode() + VAULT) for name in ("names", "shared", "ring")}
RUNS = hkdf(RUNS_KEY, b"farshore/1/runs" + VAULT)
OF_LINEAGE = {"metadata": hkdf(METADATA, b"farshore/1/lineage/metadata" + VAULT + LINEAGE)}
for subkey in ("identity", "frames", "check"):
    OF_LINEAGE[subkey] = hkdf(CONTENT, b"farshore/1/lineage/" + subkey.encode() + VAULT + LINEAGE)


def sealed(key: bytes, number: int, fields: bytes, plain: bytes) -> dict[str, str]:
    context = FRONT + VAULT + bytes([number]) + fields
    salted = RANDOM + u64(len(context)) + context + plain
    salt = blake3(salted, key=hkdf(key, b"farshore/1/salt")).digest()
    parts = hkdf(key, b"farshore/1/seal" + salt + context, 76)
    bytes_ = salt + parts[44:] + AESGCM(parts[:32]).encrypt(parts[32:44], plain, context)
    return {"context": context.hex(), "sealed": bytes_.hex()}


def metadata() -> dict[str, dict[str, str]]:
    of_lineage = OF_LINEAGE["metadata"]
    cases = {
        "commit": (of_lineage, 1, LINEAGE + u64(9) + HASH),
        "page": (of_lineage, 2, LINEAGE + PACK + u32(32) + b"\x01" + u64(2)),
        "directory": (of_lineage, 3, LINEAGE + SESSION + PACK + u32(77) + HASH),
        "entry": (RUNS, 4, RUN + u64(9)),
        "ring": (OF_MEMBER["ring"], 5, u64(9)),
        "enrolment": (OF_MEMBER["ring"], 6, HOST),
        "boundary": (of_lineage, 8, LINEAGE + u64(9)),
        "ledger": (of_lineage, 9, LINEAGE + u64(9) + PACK),
        "collection": (of_lineage, 10, LINEAGE + PACK + u32(77) + HASH),
    }
    return {name: sealed(*case, name.encode()) for name, case in cases.items()}


def extract(salt: bytes, label: bytes, key: bytes, suite: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + key, hashlib.sha256)


def expand(key: bytes, label: bytes, info: bytes, size: int, suite: bytes) -> bytes:
    labelled = struct.pack(">H", size) + b"HPKE-v1" + suite + label + info
    return HKDFExpand(SHA256(), size, labelled).derive(key)


def open_box(bytes_: bytes, info: bytes) -> bytes:
    """RFC 9180 with X25519, HKDF-SHA256 and AES-256-GCM, in the mode with a pre-shared key."""
    private = X25519PrivateKey.from_private_bytes(rising(0xA0))
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shared = private.exchange(X25519PublicKey.from_public_bytes(bytes_[:32]))
    kem = b"KEM" + struct.pack(">H", 0x20)
    secret = expand(extract(b"", b"eae_prk", shared, kem), b"shared_secret", bytes_[:32] + public, 32, kem)
    suite = b"HPKE" + struct.pack(">HHH", 0x20, 1, 2)
    id_hash = extract(b"", b"psk_id_hash", b"farshore/1/member", suite)
    context = b"\x01" + id_hash + extract(b"", b"info_hash", info, suite)
    scheduled = extract(secret, b"secret", OF_MEMBER["shared"], suite)
    key, nonce = (expand(scheduled, name, context, size, suite) for name, size in ((b"key", 32), (b"base_nonce", 12)))
    return AESGCM(key).decrypt(nonce, bytes_[32:], b"")


def boxes(kept: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """A box cannot be made again without its ephemeral key: what is kept must open, and say what it is."""
    fields = {
        "session": b"\x01" + LINEAGE + SESSION + u64(9),
        "graph": b"\x02" + LINEAGE + u64(9),
        "reading": b"\x03" + LINEAGE + u64(9),
        "host": b"\x04" + LINEAGE + HOST,
        "grant": b"\x05" + HOST + u64(9),
    }
    for name, field in fields.items():
        assert open_box(bytes.fromhex(kept[name]["box"]), FRONT + VAULT + field) == name.encode(), name
    return {name: {"info": (FRONT + VAULT + field).hex(), "box": kept[name]["box"]} for name, field in fields.items()}


def frames() -> dict[str, object]:
    chunks = [bytes(at % 251 for at in range(65_536)), bytes(65_536)]
    identities = [blake3(chunk, key=OF_LINEAGE["identity"]).digest() for chunk in chunks]
    identity = blake3(b"".join(identities), key=OF_LINEAGE["frames"]).digest()
    place = VAULT + LINEAGE + SESSION + PACK + u32(9)
    parts = hkdf(rising(0xC0), b"farshore/1/frame" + place + identity, 64)
    nonce = blake3(b"\x01payload", key=parts[32:]).digest()[:12]
    additional = FRONT + b"\x07" + place + b"\x01\x02" + u32(7) + identity
    return {
        "check": OF_LINEAGE["check"].hex(),
        "chunk identities": [found.hex() for found in identities],
        "frame identity": identity.hex(),
        "sealed": (nonce + AESGCM(parts[:32]).encrypt(nonce, b"payload", additional)).hex(),
    }


def names() -> dict[str, str]:
    def derive(context: str, material: bytes) -> bytes:
        return blake3(material, derive_key_context=context).digest()

    return {
        "lineage of the group orders": blake3(b"orders", key=OF_MEMBER["names"]).digest()[:16].hex(),
        "object on a commit": derive("farshore/1/object-name", RANDOM + HASH)[:16].hex(),
        "passphrase salt of what is sealed": derive("farshore/1/passphrase-salt", RANDOM + b"content").hex(),
    }


def slot() -> dict[str, str]:
    passphrase = unicodedata.normalize("NFKC", "cafe\u0301").encode()
    stretched = hash_secret_raw(passphrase, rising(0xB0), 3, 65_536, 4, 32, Type.ID, 0x13)
    key = hmac.digest(b"farshore/1/slot", stretched + rising(0x90), hashlib.sha512)
    parts = hkdf(key, b"farshore/1/slot" + b"front", 76)
    return {"sealed": (parts[44:] + AESGCM(parts[:32]).encrypt(parts[32:44], b"content", b"front")).hex()}


def statements() -> dict[str, dict[str, str]]:
    key = Ed25519PrivateKey.from_private_bytes(rising(0xE0))
    fields = {
        "commit": LINEAGE + u64(9) + HOST + HASH + OTHER,
        "run": RUN + u64(9) + HOST + HASH,
        "ring": u64(9) + HASH,
        "enrolment": HOST + HASH,
        "grant": HOST + u64(9) + HASH,
        "boundary": LINEAGE + u64(9) + HOST + u64(8) + u64(7),
    }
    said = {name: b"farshore/1/" + name.encode() + b"\x00" + VAULT + field for name, field in fields.items()}
    return {name: {"statement": text.hex(), "signature": key.sign(text).hex()} for name, text in said.items()}


def main() -> None:
    kept = json.loads(Path(sys.argv[1]).read_text())
    found = {"about": kept["about"], "boxes": boxes(kept["boxes"]), "frames": frames(), "metadata": metadata()}
    found |= {"names": names(), "slot": slot(), "statements": statements()}
    for part, value in found.items():
        assert kept[part] == value, f"{part} differs: {value}"
    assert kept.keys() == found.keys()
    print(f"{len(found) - 1} parts are as CRYPTO.md says")


if __name__ == "__main__":
    main()
