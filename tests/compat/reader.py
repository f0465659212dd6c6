"""An independent reader of Farshore vaults, format 1, written from FORMAT.md and CRYPTO.md alone.

`list` prints groups and points; `restore` writes each disk of a point to FOLDER/<machine>/<disk>.raw, and what it has
beside them to FOLDER/(capsule)/<item>.raw; `verify` prints the SHA-256 of all as JSON. It needs Python 3.11,
argon2-cffi, blake3, cryptography, zstandard, and no code of ours.
"""

import argparse
import hashlib
import hmac
import json
import struct
import tomllib
import unicodedata
from datetime import datetime
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from zstandard import ZstdDecompressor, ZstdError, frame_content_size

KIB, MIB, CHUNK_BYTES, DISK_BYTES_MAX = 1 << 10, 1 << 20, 1 << 16, 1 << 46
MAGIC, EPOCH_KEYS = b"FARSHORE" + struct.pack("<H", 1), 15
HEADER, COMMIT, DATA_PACK, MAP_PACK, _RUN, SLOT, RING, ENROLMENT, _9, _10, BOUNDARY, LEDGER, COLLECTION = range(1, 14)
POWERS = {"genesis": "replicator", "point": "replicator", "pruned": "pruner", "lock-extended": "pruner"}
POWERS |= dict.fromkeys(("generation-raised", "pinned", "unpinned"), "controller") | {"host-revoked": "administrator"}
# What bad input can cause. Anything else is a mistake of this program, and shows as what it is.
BAD_INPUT = (ValueError, TypeError, LookupError, OverflowError, RecursionError, OSError, struct.error)
BAD_INPUT += (HashingError, InvalidSignature, InvalidTag, ZstdError)
LAST_READ: list[Any] = [None]  # What is named if it turns out to be bad.


def require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(what)


def take(form: str, stream: BytesIO) -> tuple[Any, ...]:
    return struct.unpack("<" + form, stream.read(struct.calcsize("<" + form)))


def hashed(data: bytes, key: bytes | None = None) -> bytes:
    return blake3(data, key=key).digest()


def hkdf(key: bytes, info: bytes, size: int = 32) -> bytes:
    return HKDFExpand(SHA512(), size, info).derive(key)


def decompress(frame: bytes, size: int) -> bytes:
    """One Zstandard frame whose size is known: one that claims more must not make us allocate it."""
    fits = frame_content_size(frame) in (-1, size)
    data = ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False) if fits else b""
    require(len(data) == size, "its Zstandard frame has not the size that is stated")
    return data


class Vault:
    """An opened vault: the administrator's keys, and the newest ring, which says who may do what."""

    def __init__(self, root: Path, kit_path: Path, passphrase_path: Path) -> None:
        self.root, LAST_READ[0] = root, f"{kit_path} and {passphrase_path}"
        passphrase = unicodedata.normalize("NFKC", passphrase_path.read_text(encoding="utf-8").rstrip("\r\n"))
        kit = tomllib.loads(kit_path.read_text(encoding="utf-8"))
        self.id, self.admin, slot = (bytes.fromhex(kit[name]) for name in ("vault", "admin-key", "slot"))
        begin = MAGIC + struct.pack("<BBI", SLOT, 0, len(slot)) + self.id + bytes.fromhex(kit["slot-id"])
        found, memory, passes, lanes, salt = take("48sIII32s", stream := BytesIO(slot[:-32]))
        whole = found == begin and len(slot) <= 64 * KIB and hashed(slot[:-32]) == slot[-32:]
        bounded = 65_536 <= memory <= 4_194_304 and 3 <= passes <= 16 and 1 <= lanes <= 16
        require(whole and bounded and memory * passes <= 16_777_216, "the slot in the kit is damaged or another kit's")
        stretched = hash_secret_raw(passphrase.encode(), salt, passes, memory, lanes, 32, Type.ID, 0x13)
        stretched, label = stretched + bytes.fromhex(kit["secret"]), b"farshore/1/slot"
        derived = HKDF(SHA512(), 76, label, label + slot[:92]).derive(stretched)
        require(hmac.compare_digest(derived[44:], stream.read(32)), "the passphrase or the secret of the kit is wrong")
        keys = json.loads(AESGCM(derived[:32]).decrypt(derived[32:44], stream.read(), slot[:92]))
        key, private = bytes.fromhex(keys["member"]), X25519PrivateKey.from_private_bytes
        self.keys = {name: hkdf(key, b"farshore/1/member/" + name + self.id) for name in (b"names", b"shared", b"ring")}
        self.reading_keys = {epoch["epoch"]: private(bytes.fromhex(epoch["reading"])) for epoch in keys["epochs"]}
        length, header = self.load("vault", HEADER, 64 * KIB)
        stated = [json.loads(header[16 : 16 + length])[name] for name in ("vault", "admin_key")] + [header[-32:]]
        require(stated == [self.id.hex(), self.admin.hex(), hashed(header[:-32])], "it is damaged, or not the kit's")
        number = self.newest("keys/ring", 8)
        self.ring = self.load_signed(f"keys/ring/{number:08}", RING, 5, struct.pack("<Q", number), self.admin, b"ring")
        slots = [(found["slot"], found["hash"]) for found in self.ring["slots"]]
        require((kit["slot-id"], hashed(slot).hex()) in slots, "it lacks the kit's slot")
        later = private(HKDF(SHA512(), 32, label, label + b"/receiving" + slot[:92]).derive(stretched))
        for keys in (keys for keys in self.ring["epochs"] if keys["epoch"] not in self.reading_keys):
            epoch, name = keys["epoch"], hashed(bytes.fromhex(keys["reading"] + keys["graph"]))[:16].hex()
            length, boxes = self.load(f"keys/epochs/{epoch:08}/{name}", EPOCH_KEYS, 16 * KIB)
            found = {boxes[at : at + 16]: boxes[at + 16 : at + 128] for at in range(16, length + 16, 128)}
            self.reading_keys[epoch] = later  # It opens the box, and the key in the box takes its place.
            self.reading_keys[epoch] = private(self.open_box(6, epoch, slot[32:48], found[slot[32:48]])[:32])

    @lru_cache(maxsize=8)
    def load(self, key: str, kind: int, bytes_max: int) -> tuple[int, bytes]:
        """The length in an object's prologue, and the object. Its limit is kept before memory is used."""
        LAST_READ[0], path = key, self.root / key
        require(path.stat().st_size <= bytes_max, f"it has more than {bytes_max} bytes")
        *found, length = struct.unpack_from("<10sBBI", data := path.read_bytes())
        named = kind not in (DATA_PACK, MAP_PACK, COLLECTION) or data[16:32].hex() == path.name
        require(named and found == [MAGIC, kind, 0], f"it is not the object of kind {kind} that its key says")
        return length, data

    def load_signed(self, key: str, kind: int, number: int, fields: bytes, signer: bytes, name: bytes) -> Any:
        length, data = self.load(key, kind, 96 + (4 * MIB if kind == RING else 64 * KIB))
        opened = self.unseal(self.keys[b"ring"], number, fields, data[16:], length)
        self.check(signer, opened[:64], name, fields + hashed(opened[64:]))
        return json.loads(opened[64:])

    def newest(self, folder: str, digits: int, named: int = 0) -> int:
        """The newest of a numbered series, by asking from one that must be there; the listing only shows what lacks."""
        listed = [named, *(int(path.name) for path in self.root.glob(f"{folder}/{'[0-9]' * digits}"))]
        number = max(named - 1, 0)
        while (self.root / folder / f"{number + 1:0{digits}}").is_file():
            number += 1
        require(number >= max(listed), f"{folder} lacks number {number + 1}, which a boundary or a later one needs")
        return number

    def unseal(self, key: bytes, number: int, fields: bytes, sealed: bytes, length: int | None = None) -> bytes:
        """Metadata. The commitment to its key is compared, in constant time, before anything is decrypted."""
        require(length in (None, len(sealed) - 80), "its length is wrong")
        context, salt, commitment = MAGIC + self.id + bytes([number]) + fields, sealed[:32], sealed[32:64]
        derived = hkdf(key, b"farshore/1/seal" + salt + context, 76)
        require(hmac.compare_digest(derived[44:], commitment), "it was changed, or sealed for another key or place")
        return AESGCM(derived[:32]).decrypt(derived[32:44], sealed[64:], context)

    def open_box(self, number: int, epoch: int, fields: bytes, box: bytes) -> bytes:
        """HPKE, RFC 9180, in mode_psk and with an empty AAD; by hand, because `cryptography` offers mode_base only."""
        private, info = self.reading_keys[epoch], MAGIC + self.id + bytes([number]) + fields + struct.pack("<Q", epoch)
        kem, suite, psk_id = b"HPKE-v1KEM\x00\x20", b"HPKE-v1HPKE\x00\x20\x00\x01\x00\x02", b"farshore/1/member"
        shared = kem + b"eae_prk" + private.exchange(X25519PublicKey.from_public_bytes(box[:32]))
        ends = box[:32] + private.public_key().public_bytes_raw()
        shared = HKDF(SHA256(), 32, b"", b"\x00\x20" + kem + b"shared_secret" + ends).derive(shared)
        psk_id_hash = hmac.digest(b"", suite + b"psk_id_hash" + psk_id, "sha256")
        context = b"\x01" + psk_id_hash + hmac.digest(b"", suite + b"info_hash" + info, "sha256")
        secret = suite + b"secret" + self.keys[b"shared"]
        key = HKDF(SHA256(), 32, shared, b"\x00\x20" + suite + b"key" + context).derive(secret)
        nonce = HKDF(SHA256(), 12, shared, b"\x00\x0c" + suite + b"base_nonce" + context).derive(secret)
        return AESGCM(key).decrypt(nonce, box[32:], b"")

    def check(self, signer: bytes, signature: bytes, name: bytes, fields: bytes) -> None:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, b"farshore/1/" + name + b"\0" + self.id + fields)

    def check_author(self, author: bytes, power: str, place: tuple[str, int, int], signed: tuple[bytes, ...]) -> None:
        """That who has a power, and had it then, signed it. Zeros are the administrator, who has all."""
        if author == bytes(16):
            return self.check(self.admin, *signed)
        host = next((host for host in self.ring["hosts"] if host["host"] == author.hex()), {"powers": []})
        require(power in host["powers"], f"its author {author.hex()} has not the power of a {power}")
        until = host.get("revoked", {}).get("written_until")
        require(not until or place[1] <= until["lineages"].get(place[0], (0, 0))[place[2]], "its author was revoked")
        key, invitation = f"keys/hosts/{author.hex()}", bytes.fromhex(host["invitation"])
        enrolment = self.load_signed(key, ENROLMENT, 6, author, invitation, b"enrolment")
        enrolled_at, expires_at = map(datetime.fromisoformat, (enrolment["enrolled_at"], host["expires_at"]))
        require(enrolled_at <= expires_at, "its host joined after the invitation had expired")
        self.check(bytes.fromhex(enrolment["signing"]), *signed)

    def points(self) -> Any:
        lineages = (Lineage(self, bytes.fromhex(at.parent.name)) for at in sorted(self.root.glob("lineages/*/commits")))
        return ((lineage, *found) for lineage in lineages for found in list(lineage.points()))


class Lineage:
    """The history of one group: the commits that count, and the maps, packs and collections to which they refer."""

    def __init__(self, vault: Vault, lineage: bytes) -> None:
        self.vault, self.id, self.place, self.folder = vault, lineage, vault.id + lineage, f"lineages/{lineage.hex()}"
        self.group, self.keys, self.judged, self.standing, self.collections = "", {}, 0, {}, []
        self.read_commit(1)  # It brings the keys with which all else is sealed.
        self.boundary, first, gone = vault.newest(f"{self.folder}/boundaries", 8), 0, -1
        if boundary := self.boundary:  # A commit that is there, and up to which number before it others may be gone.
            length, data = vault.load(f"{self.folder}/boundaries/{boundary:08}", BOUNDARY, 192)
            opened = self.unseal(8, number := struct.pack("<Q", boundary), data[16:], length)
            author, signature, first, gone = take("16s64sQQ", opened)
            fields = lineage + number + author + struct.pack("<QQ", first, gone)
            vault.check_author(author, "pruner", (lineage.hex(), boundary, 1), (signature, b"boundary", fields))
        self.newest = vault.newest(f"{self.folder}/commits", 20, first)
        prune = self.read_commit(pruned)[1] if (pruned := self.read_commit(self.newest)[2].get("pruned")) else None
        require(vault.newest(f"{self.folder}/boundaries", 8) == boundary, "a prune is at work: begin anew")
        require(gone < first <= (pruned or 0), f"it contradicts the newest boundary, which names {first}")
        if prune is not None:
            self.read_ledger(prune)
            require(1 <= self.judged < pruned <= self.newest, f"commit {pruned} cannot be the newest prune")

    def unseal(self, number: int, fields: bytes, sealed: bytes, length: int | None = None) -> BytesIO:
        return BytesIO(self.vault.unseal(self.keys[b"metadata"], number, self.id + fields, sealed, length))

    def read_ledger(self, prune: Any) -> None:
        """The points that stand, and the collections. What is condemned matters to a prune only."""
        self.judged, ledger = prune["judged"], prune["ledger"]["id"]
        length, data = self.vault.load(f"{self.folder}/ledgers/{self.judged:020}/{ledger}", LEDGER, 96 + 128 * MIB)
        require(hashed(data).hex() == prune["ledger"]["hash"], "it is not the one that the commit of its prune names")
        stream = self.unseal(9, struct.pack("<Q", self.judged) + bytes.fromhex(ledger), data[16:], length)
        points = (take("Q32sqB", stream) for _ in range(*take("I", stream)))
        self.standing = {number: commit_hash for number, commit_hash, _, stands in points if stands}
        for _ in range(*take("I", stream)):
            stream.seek(29 * take("QqqBI", stream)[-1], 1)
        for _ in range(*take("I", stream)):
            *collection, count = take("16sQII32sI", stream)
            self.collections.append((*collection, [take("B16s", stream) for _ in range(count)]))
        require(not stream.read(), "bytes follow its end")

    def points(self) -> Any:
        """Each point, with machine, name and the rest of each disk and item. All commits that count are checked."""
        before, previous, pruned = 0, "00" * 32, None
        for sequence in sorted({1, *self.standing, *range(self.judged + 1, self.newest + 1)}):
            name, event, head, stated, commit_hash = self.read_commit(sequence)
            follows = [stated, head.get("pruned")] == [previous, sequence if name == "pruned" else pruned]
            require(follows or sequence > before + 1, "it does not follow the commit before it")
            require(self.standing.get(sequence, commit_hash) == commit_hash, "it is not the one in the ledger")
            before, previous, pruned = sequence, commit_hash.hex(), head.get("pruned")
            if name == "point":
                own = {"lineage": self.id.hex(), "sequence": sequence, "generation": head["generation"]}
                require(own.items() <= dict(event).items(), "its point is of another lineage, number or generation")
                disks = [(of["machine"]["id"], disk["disk"], disk) for of in event["machines"] for disk in of["disks"]]
                require(len({disk[:2] for disk in disks}) == len(disks), "two disks in it have one name")
                require(all(0 <= disk["size_bytes"] <= DISK_BYTES_MAX for *_, disk in disks), "a disk has a wrong size")
                disks += [("(capsule)", item["name"].replace("/", "."), item) for item in event.get("capsule", ())]
                yield own | {"captured_at": event["captured_at"]}, disks
        require(self.vault.newest(f"{self.folder}/boundaries", 8) == self.boundary, "a prune is at work: begin anew")

    def read_commit(self, sequence: int) -> tuple[Any, ...]:
        """Name, event, head, previous hash and hash of a commit. The first has the secrets, in its boxes."""
        json_bytes, data = self.vault.load(f"{self.folder}/commits/{sequence:020}", COMMIT, 17 * MIB)
        _, count = take("16sB", stream := BytesIO(data))
        require(1 <= count <= 16 if sequence == 1 else count == 0, "it has a wrong number of boxes")
        for _ in range(count):
            recipient, epoch, _, length = take("BQ8sH", stream)
            box = stream.read(length)
            if recipient == 2 and epoch in self.vault.reading_keys:
                secrets = self.vault.open_box(3, epoch, self.id, box)
                for name, start in ((b"metadata", 0), (b"identity", 32), (b"frames", 32), (b"check", 32)):
                    self.keys[name] = hkdf(secrets[start:][:32], b"farshore/1/lineage/" + name + self.place)
        number, boxes_hash = struct.pack("<Q", sequence), hashed(data[16 : stream.tell()])
        stream = self.unseal(1, number + boxes_hash, stream.read())
        author, signature, frame = *take("16s64s", stream), stream.read()
        commit = json.loads(decompress(frame, min(json_bytes, 16 * MIB)))
        ((name, event),) = dict(commit["event"]).items()
        fields = self.id + number + author + boxes_hash + hashed(frame)
        self.vault.check_author(author, POWERS[name], (self.id.hex(), sequence, 0), (signature, b"commit", fields))
        stated = [commit["lineage"], commit["head"]["sequence"], name == "genesis"]
        require(stated == [self.id.hex(), sequence, sequence == 1], "it was written for another lineage or number")
        if name == "genesis":
            self.group, check = event["group"], bytes.fromhex(event["content_check"])
            lineage = hashed(bytes(self.group, "utf-8"), self.vault.keys[b"names"])[:16]
            require([lineage, check] == [self.id, self.keys[b"check"]], "its group or content secret is another's")
        return name, event, commit["head"], commit["previous"], hashed(data)

    def content(self, disk: Any) -> Any:
        size, at, digest = disk["size_bytes"], disk["map"], blake3()
        at = at and (bytes.fromhex(at["pack"]), at["base"], at["offset"], at["length"], bytes.fromhex(at["hash"]))
        for position in range(0, size, CHUNK_BYTES):
            found = at
            for level in (4, 3, 2, 1, 0):
                index, slot = divmod(position // CHUNK_BYTES // 64**level, 64)
                found = self.read_page(found, level, index, size).get(slot) if found else None
            chunk = self.read_frame(*found[:2])[found[2:]] if found else bytes(CHUNK_BYTES)
            digest.update(chunk := chunk[: size - position])
            yield chunk
        require(disk.get("digest") in (None, digest.hexdigest()), "an item of a capsule has not its digest")

    @cached_property
    def moved(self) -> dict[tuple[int, bytes, int], tuple[str, int, int, int]]:
        """Where the pieces of packs are that a prune moved; of the collections that have a piece the last counts."""
        places = {}
        for collection, base, size, header_bytes, header_hash, sources in self.collections:
            key = f"{self.folder}/collections/{base:020}/{collection.hex()}"
            length, data = self.vault.load(key, COLLECTION, 96 * MIB)
            fields = collection + struct.pack("<I", size - header_bytes) + hashed(data[header_bytes:])
            found = [len(data), length, hashed(data[:header_bytes]), data[16:68]]
            require(found == [size, header_bytes, header_hash, fields], "it is not the one in the ledger")
            stream, found = self.unseal(10, fields, data[68:header_bytes]), []
            for _ in range(*take("I", stream)):
                sort, pack, _, count = take("B16sQI", stream)
                found.append((sort, pack))
                for number, offset, length in (take("III", stream) for _ in range(count)):
                    places[sort, pack, number] = key, COLLECTION, offset, length
            require(found == sources and not stream.read(), "its sources are not those in the ledger")
        return places

    def stored(self, sort: int, pack: bytes, base: int, number: int, offset: int, length: int) -> bytes:
        folder, kind = ("packs", DATA_PACK) if sort == 1 else ("maps", MAP_PACK)
        place = f"{self.folder}/{folder}/{base:020}/{pack.hex()}", kind, offset, length
        key, kind, offset, length = self.moved.get((sort, pack, number), place)
        return self.vault.load(key, kind, (96 if kind == COLLECTION else 40) * MIB)[1][offset : offset + length]

    @lru_cache(maxsize=64)
    def read_page(self, place: tuple[Any, ...], level: int, index: int, size: int) -> dict[int, tuple[Any, ...]]:
        """The places to which a page's slots refer. The place of a page is its pack, base, offset, length and hash."""
        pack, base, offset, length, page_hash = place
        stored = self.stored(2, pack, base, offset, offset, length)
        require(length <= 16 * KIB and hashed(stored) == page_hash, f"its page {offset} is not the one referred to")
        stream = self.unseal(2, pack + struct.pack("<IBQ", offset, level, index), stored)
        *found, packs = take("BQB", stream)
        require(found == [level, index] and packs <= 64, "it is another one")
        table, places = [take("16sQ" if level else "64s", stream) for _ in range(packs)], {}
        for slot in range(64):
            if take("?", stream)[0]:
                number, *entry = take("BII32s" if level else "BIB32s", stream)
                places[slot] = (*table[number], *entry)
        inside = all((index * 64 + slot) * 64**level * CHUNK_BYTES < size for slot in places)
        require(inside and not stream.read(), "a page in it refers to what is past the disk's end")
        return places

    @lru_cache(maxsize=64)
    def read_frame(self, reference: bytes, ordinal: int) -> dict[tuple[int, bytes], bytes]:
        """The chunks of a frame, by their number in it and their identity."""
        pack, base, place, secret, frames = self.read_pack(reference)
        begin, length, codec, chunks, identities = frames[ordinal]
        stored = self.stored(1, pack, base, ordinal + 1, begin, length)
        place, identity = place + struct.pack("<I", ordinal), hashed(identities, self.keys[b"frames"])
        keys = hkdf(secret, b"farshore/1/frame" + place + identity, 64)
        lengths = struct.pack("<BBI", codec, chunks, length - 28)
        payload = AESGCM(keys[:32]).decrypt(stored[:12], stored[12:], MAGIC + b"\x07" + place + lengths + identity)
        payload = decompress(payload, chunks * CHUNK_BYTES) if codec else payload
        parts = [payload[begin : begin + CHUNK_BYTES] for begin in range(0, len(payload), CHUNK_BYTES)]
        names = [hashed(part, self.keys[b"identity"]) for part in parts]
        require(codec <= 1 and b"".join(names) == identities, "a frame in it has other chunks than are stated")
        return dict(zip(enumerate(names), parts))

    @lru_cache(maxsize=8)
    def read_pack(self, reference: bytes) -> tuple[Any, ...]:
        """A data pack's id, base and place, its session's secret, and the begin, length and kind of each frame."""
        pack, base, size, header_bytes, header_hash = struct.unpack("<16sQII32s", reference)
        data = self.stored(1, pack, base, 0, 0, 40 * MIB)  # Only the header, if that was moved.
        header, body = data[:header_bytes], data[header_bytes:]
        begin, session, epoch, box, *stated = take("32s16sQ80s4s32s", stream := BytesIO(header))
        right = [MAGIC + struct.pack("<BBI", DATA_PACK, 0, header_bytes) + pack, header_hash]
        require([begin, hashed(header)] == right, "its header is not the one referred to")
        require(not body or stated == [struct.pack("<I", len(body)), hashed(body)], "its body is not the header's")
        stream = self.unseal(3, session + pack + stated[0] + stated[1], stream.read())
        frames, end = [], header_bytes
        for _ in range(*take("I", stream)):
            length, codec, chunks = take("IBB", stream)
            frames.append((end, length, codec, chunks, *take(f"{32 * chunks}s", stream)))
            end += length
        require(end == size and not stream.read(), "its directory does not fit its body")
        return pack, base, self.place + session + pack, self.vault.open_box(1, epoch, self.id + session, box), frames


def list_points(vault: Vault, _: argparse.Namespace) -> None:
    for lineage, point, disks in vault.points():
        found = [{"machine": machine, "disk": name, "size_bytes": disk["size_bytes"]} for machine, name, disk in disks]
        print(json.dumps({"group": lineage.group, **point, "disks": found}))


def restore(vault: Vault, given: argparse.Namespace) -> None:
    """A disk gets its name when it is whole: nothing half-written may look like one."""
    lineage = Lineage(vault, hashed(given.group.encode(), vault.keys[b"names"])[:16])
    found = [disks for point, disks in lineage.points() if point["sequence"] == given.point]
    require(found, "the group has no such point")
    for machine, name, disk in found[0]:
        safe = all(Path(part).name == part not in ("", "..") and "\\" not in part for part in (machine, name))
        path = given.to / machine / f"{name}.raw"
        require(safe and not path.exists(), f"{machine!r}/{name!r} is there already, or would lead out of the folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part := path.with_name(f"{name}.part"), "wb") as file:
            file.writelines(lineage.content(disk))
        part.rename(path)


def verify(vault: Vault, _: argparse.Namespace) -> None:
    groups: dict[str, Any] = {}
    for lineage, point, disks in vault.points():
        machines = groups.setdefault(lineage.group, {}).setdefault(str(point["sequence"]), {})
        for machine, name, disk in disks:
            sha256 = hashlib.sha256()
            for chunk in lineage.content(disk):
                sha256.update(chunk)
            machines.setdefault(machine, {})[name] = {"bytes": disk["size_bytes"], "sha256": sha256.hexdigest()}
    print(json.dumps(groups, indent=2, sort_keys=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Reads a Farshore vault with its recovery kit and passphrase.")
    parser.add_argument("vault", type=Path)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--passphrase-file", type=Path, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    _, _, restoring = (commands.add_parser(name) for name in ("list", "verify", "restore"))
    restoring.add_argument("group")
    restoring.add_argument("point", type=int)
    restoring.add_argument("--to", type=Path, required=True)
    given = parser.parse_args()
    try:
        vault = Vault(given.vault, given.kit, given.passphrase_file)
        {"list": list_points, "restore": restore, "verify": verify}[given.command](vault, given)
    except BAD_INPUT as error:
        what = str(error) if isinstance(error, ValueError) else f"it cannot be used: {error!r}"
        raise SystemExit(f"reader.py: {what} (last read: {LAST_READ[0]})") from None
