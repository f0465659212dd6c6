"""An independent reader of Farshore vaults, format 1, written from FORMAT.md and CRYPTO.md alone.

    reader.py VAULT --kit KIT.toml --passphrase-file FILE (list [--json] | restore GROUP POINT --to FOLDER | verify)

VAULT is the folder with the vault's objects. `list` prints groups and points; `restore` writes each disk of a point to
FOLDER/<machine>/<disk>.raw; `verify` reads all and prints the SHA-256 of every disk as JSON. It reads as administrator,
so it cannot open what is boxed for a host (grants, lineage boxes); entries of runs hold no disk, and are not read.
It needs Python 3.11, argon2-cffi, blake3, cryptography and zstandard, and none of Farshore's code.
"""

import argparse
import hashlib
import hmac
import json
import struct
import tomllib
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from zstandard import ZstdDecompressor, frame_content_size

KIB, MIB, CHUNK_BYTES, DISK_BYTES_MAX = 1 << 10, 1 << 20, 1 << 16, 1 << 46
HEADER, COMMIT, DATA_PACK, MAP_PACK, _RUN_ENTRY, SLOT, RING, ENROLMENT = range(1, 9)
MAGIC = b"FARSHORE" + struct.pack("<H", 1)
POWERS = {"genesis": "replicator", "point": "replicator", "generation-raised": "controller"}
DAMAGED = "bring it back from another copy of the vault, and ask who may write to this one"


def require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(what)


@contextmanager
def at(where: Any, todo: str = DAMAGED) -> Iterator[None]:
    """Ends the program with one line if anything inside is wrong: libraries and JSON have too many ways to be so."""
    try:
        yield
    except Exception as error:
        what = str(error) if isinstance(error, ValueError) else f"it cannot be used ({type(error).__name__}: {error})"
        raise SystemExit(f"reader.py: {where}: {what}; {todo}") from None


def take(form: str, data: bytes) -> tuple[Any, ...]:
    """The fields at the front of the data, and the rest of it."""
    return *struct.unpack_from("<" + form, data), data[struct.calcsize("<" + form) :]


def hashed(data: bytes, key: bytes | None = None) -> bytes:
    return blake3(data, key=key).digest()


def decompress(frame: bytes, size: int) -> bytes:
    """One Zstandard frame whose size is known: one that claims more must not make us allocate it."""
    fits = frame_content_size(frame) in (-1, size)
    data = ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False) if fits else b""
    require(len(data) == size, "its Zstandard frame has not the size that is stated")
    return data


def open_hpke(private: X25519PrivateKey, message: bytes, info: bytes, psk: bytes, psk_id: bytes) -> bytes:
    """RFC 9180, one message in mode_psk with an empty AAD; by hand, because `cryptography` offers mode_base only."""
    kem, suite = b"HPKE-v1KEM\x00\x20", b"HPKE-v1HPKE\x00\x20\x00\x01\x00\x02"
    shared = private.exchange(X25519PublicKey.from_public_bytes(message[:32]))
    ends = message[:32] + private.public_key().public_bytes_raw()
    shared = HKDF(SHA256(), 32, b"", b"\x00\x20" + kem + b"shared_secret" + ends).derive(kem + b"eae_prk" + shared)
    psk_id_hash = hmac.digest(b"", suite + b"psk_id_hash" + psk_id, "sha256")
    context = b"\x01" + psk_id_hash + hmac.digest(b"", suite + b"info_hash" + info, "sha256")
    key = HKDF(SHA256(), 32, shared, b"\x00\x20" + suite + b"key" + context).derive(suite + b"secret" + psk)
    nonce = HKDF(SHA256(), 12, shared, b"\x00\x0c" + suite + b"base_nonce" + context).derive(suite + b"secret" + psk)
    return AESGCM(key).decrypt(nonce, message[32:], b"")


class Vault:
    """An opened vault: the administrator's keys, and the newest ring, which says who may do what."""

    def __init__(self, root: Path, kit_path: Path, passphrase_path: Path, thorough: bool) -> None:
        self.root, self.author = root, lru_cache(maxsize=None)(self.read_author)
        with at(f"{kit_path} and {passphrase_path}", "check the passphrase, and that this is the vault's newest kit"):
            passphrase = unicodedata.normalize("NFKC", passphrase_path.read_text(encoding="utf-8").rstrip("\r\n"))
            kit = tomllib.loads(kit_path.read_text(encoding="utf-8"))
            require((kit["kind"], kit["format"]) == ("recovery kit", 1), "it is no recovery kit of format 1")
            self.id, self.admin, slot = (bytes.fromhex(kit[name]) for name in ("vault", "admin-key", "slot"))
            self.open_slot(slot, bytes.fromhex(kit["slot-id"]), passphrase.encode(), bytes.fromhex(kit["secret"]))
        with self.opened("vault", HEADER, 64 * KIB) as (length, rest, data):
            require((length, hashed(data[:-32])) == (len(rest) - 32, rest[-32:]), "its length or hash is wrong")
            stated = [bytes.fromhex(json.loads(rest[:-32])[name]) for name in ("vault", "admin_key")]
            require(stated == [self.id, self.admin], "it is another vault than the kit's")
        newest = max(1, self.newest("keys/ring", 8))
        for number in range(1 if thorough else newest, newest + 1):
            fields = struct.pack("<Q", number)
            self.ring = self.read_signed(f"keys/ring/{number:08}", RING, 5, fields, self.admin, b"ring")
        with at(f"keys/ring/{newest:08}"):
            listed = {"slot": kit["slot-id"], "hash": hashed(slot).hex()} in self.ring["slots"]
            require(listed, "it does not list the slot of the kit")

    @contextmanager
    def opened(self, key: str, kind: int, bytes_max: int) -> Iterator[tuple[int, bytes, bytes]]:
        """The length in an object's prologue, what follows, and all of it. A limit is kept before memory is used."""
        with at(key), open(self.root / key, "rb") as file:
            require(file.seek(0, 2) <= bytes_max, f"it is above the limit of its kind, {bytes_max} bytes")
            file.seek(0)
            data = file.read()
            *found, length, rest = take("10sBBI", data)
            require(found == [MAGIC, kind, 0], f"it is not an object of kind {kind} of Farshore's format 1")
            yield length, rest, data

    def newest(self, folder: str, digits: int) -> int:
        """The newest of a numbered series, by asking; the listing only shows whether one is missing."""
        number = 0
        while (self.root / folder / f"{number + 1:0{digits}}").is_file():
            number += 1
        with at(f"{folder}/{number + 1:0{digits}}"):
            listed = self.root.glob(f"{folder}/{'[0-9]' * digits}")
            require(all(int(path.name) <= number for path in listed), "it is missing, and later ones are there")
        return number

    def open_slot(self, slot: bytes, slot_id: bytes, passphrase: bytes, kit_secret: bytes) -> None:
        require(len(slot) <= 64 * KIB and hashed(slot[:-32]) == slot[-32:], "its slot is damaged")
        begin = MAGIC + struct.pack("<BBI", SLOT, 0, len(slot)) + self.id + slot_id
        found, memory, passes, lanes, salt, sealed = take("48sIII32s", slot[:-32])
        require(found == begin, "its slot is another vault's, another kit's or of another format")
        bounded = 65_536 <= memory <= 4_194_304 and 3 <= passes <= 16 and 1 <= lanes <= 16
        require(bounded and memory * passes <= 16_777_216, "its Argon2id parameters are out of bounds")
        stretched, before = hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, Type.ID, 0x13), slot[:92]
        derived = HKDF(SHA512(), 76, b"farshore/1/slot", b"farshore/1/slot" + before).derive(stretched + kit_secret)
        require(hmac.compare_digest(derived[44:], sealed[:32]), "the passphrase or the secret of the kit is wrong")
        keys = json.loads(AESGCM(derived[:32]).decrypt(derived[32:44], sealed[32:], before))
        member, private = bytes.fromhex(keys["member"]), X25519PrivateKey.from_private_bytes
        infos = {name: b"farshore/1/member/" + name + self.id for name in (b"names", b"shared", b"ring")}
        self.keys = {name: HKDFExpand(SHA512(), 32, info).derive(member) for name, info in infos.items()}
        self.reading_keys = {epoch["epoch"]: private(bytes.fromhex(epoch["reading"])) for epoch in keys["epochs"]}

    def unseal(self, key: bytes, number: int, fields: bytes, sealed: bytes) -> bytes:
        """Metadata. The commitment to its key is compared, in constant time, before anything is decrypted."""
        context, (salt, commitment, ciphertext) = MAGIC + self.id + bytes([number]) + fields, take("32s32s", sealed)
        derived = HKDFExpand(SHA512(), 76, b"farshore/1/seal" + salt + context).derive(key)
        require(hmac.compare_digest(derived[44:], commitment), "it was changed, or sealed for another key or place")
        return AESGCM(derived[:32]).decrypt(derived[32:44], ciphertext, context)

    def open_box(self, number: int, epoch: int, fields: bytes, box: bytes) -> bytes:
        info = MAGIC + self.id + bytes([number]) + fields + struct.pack("<Q", epoch)
        return open_hpke(self.reading_keys[epoch], box, info, self.keys[b"shared"], b"farshore/1/member")

    def read_signed(self, key: str, kind: int, number: int, fields: bytes, signer: bytes, name: bytes) -> Any:
        """A ring or an enrolment: a signature and JSON, sealed together with the member key `ring`."""
        with self.opened(key, kind, 16 + 80 + 4 * MIB) as (length, sealed, _):
            signature, text = take("64s", self.unseal(self.keys[b"ring"], number, fields, sealed))
            require(length == 64 + len(text), "its length is wrong")
            statement = b"farshore/1/" + name + b"\x00" + self.id + fields + hashed(text)
            Ed25519PublicKey.from_public_bytes(signer).verify(signature, statement)
            return json.loads(text)

    def read_author(self, author: str) -> tuple[bytes, list[str]]:
        """The signing key and the powers of an author; zeros stand for the administrator, who has all."""
        if author == "0" * 32:
            return self.admin, list(POWERS.values())
        host = next((host for host in self.ring["hosts"] if host["host"] == author), None)
        require(host, f"its author {author} is not in the newest ring")
        key, fields, invitation = f"keys/hosts/{author}", bytes.fromhex(author), bytes.fromhex(host["invitation"])
        enrolment = self.read_signed(key, ENROLMENT, 6, fields, invitation, b"enrolment")
        enrolled_at, expires_at = map(datetime.fromisoformat, (enrolment["enrolled_at"], host["expires_at"]))
        require(enrolled_at <= expires_at, f"its author {author} joined after the invitation had expired")
        return bytes.fromhex(enrolment["signing"]), host["powers"]

    def points(self) -> Iterator[tuple["Lineage", Any, Any]]:
        for path in sorted(self.root.glob(f"lineages/{'[0-9a-f]' * 32}")):
            lineage = Lineage(self, bytes.fromhex(path.name))
            yield from ((lineage, *found) for found in lineage.points())


class Lineage:
    """The history of one group: its commits, and the maps and packs to which they refer."""

    def __init__(self, vault: Vault, lineage: bytes) -> None:
        self.vault, self.id, self.place, self.folder = vault, lineage, vault.id + lineage, f"lineages/{lineage.hex()}"
        self.group, self.keys = "", {}
        # A pack has at most 40 MiB and a frame 1 MiB: this bounds the memory that any map can make a reader need.
        self.pack, self.frame = lru_cache(maxsize=8)(self.read_pack), lru_cache(maxsize=64)(self.read_frame)
        self.page = lru_cache(maxsize=64)(self.read_page)

    def points(self, until: int | None = None) -> Iterator[tuple[dict[str, Any], list[tuple[str, str, Any]]]]:
        """Each point up to a commit, with machine, name and the rest of each disk. All commits before are checked."""
        previous = bytes(32)
        for sequence in range(1, (until or self.vault.newest(f"{self.folder}/commits", 20)) + 1):
            key = f"{self.folder}/commits/{sequence:020}"
            with self.vault.opened(key, COMMIT, 17 * MIB) as (json_bytes, rest, data):
                require(json_bytes <= 16 * MIB, "its JSON is above the limit")
                commit = self.read_commit(sequence, json_bytes, rest)
                require(commit["previous"] == previous.hex(), "it does not follow the commit before it")
                previous = hashed(data)
                if "point" not in commit["event"]:
                    continue
                captured_at, machines = (commit["event"]["point"][name] for name in ("captured_at", "machines"))
                point = {"sequence": sequence, "generation": commit["head"]["generation"], "captured_at": captured_at}
                disks = [(each["machine"]["id"], disk["disk"], disk) for each in machines for disk in each["disks"]]
                require(len({disk[:2] for disk in disks}) == len(disks), "two disks in it have one name")
                require(all(0 <= disk["size_bytes"] <= DISK_BYTES_MAX for *_, disk in disks), "a disk has a wrong size")
            yield point, disks

    def read_commit(self, sequence: int, json_bytes: int, data: bytes) -> Any:
        """A commit, which is trusted for what the ring lets its author do. The first has the secrets, in its boxes."""
        count, sealed = take("B", data)
        require(1 <= count <= 16 if sequence == 1 else count == 0, "it has a wrong number of boxes")
        for _ in range(count):
            recipient, epoch, _, length, sealed = take("BQ8sH", sealed)
            require(length <= 512, "a box in it is above the limit")
            box, sealed = take(f"{length}s", sealed)
            if recipient == 2 and epoch in self.vault.reading_keys:
                metadata, content = take("32s", self.vault.open_box(3, epoch, self.id, box))
                secrets = {b"metadata": metadata, b"identity": content, b"frames": content, b"check": content}
                infos = {name: b"farshore/1/lineage/" + name + self.place for name in secrets}
                self.keys = {name: HKDFExpand(SHA512(), 32, infos[name]).derive(secrets[name]) for name in secrets}
        require(self.keys, "no box in it is for this kit")
        fields, boxes_hash = self.id + struct.pack("<Q", sequence), hashed(data[: len(data) - len(sealed)])
        opened = self.vault.unseal(self.keys[b"metadata"], 1, fields + boxes_hash, sealed)
        author, signature, frame = take("16s64s", opened)
        signer, powers = self.vault.author(author.hex())
        statement = b"farshore/1/commit\x00" + self.vault.id + fields + author + boxes_hash + hashed(frame)
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, statement)
        commit = json.loads(decompress(frame, json_bytes))
        stated = [commit["lineage"], commit["head"]["sequence"]]
        require(stated == [self.id.hex(), sequence], "it was written for another lineage or number")
        ((name, event),) = commit["event"].items()
        require(POWERS[name] in powers, f"its author has not the power of a {POWERS[name]}")
        require((name == "genesis") == (sequence == 1), "a lineage begins once, with its first commit")
        if name == "genesis":
            self.group, check = event["group"], bytes.fromhex(event["content_check"])
            lineage = hashed(self.group.encode(), self.vault.keys[b"names"])[:16]
            require(lineage == self.id, "its group has another lineage")
            require(hmac.compare_digest(check, self.keys[b"check"]), "its content secret is another lineage's")
        return commit

    def content(self, disk: Any) -> Iterator[bytes]:
        """Every chunk of a disk, in order and cut at its end; what its map leaves out is zero."""
        size, top = disk["size_bytes"], disk["map"]
        if top:
            top = bytes.fromhex(top["pack"]), top["base"], top["offset"], top["length"], bytes.fromhex(top["hash"])
        for position in range(0, size, CHUNK_BYTES):
            number, found = position // CHUNK_BYTES, top
            for level in (4, 3, 2, 1, 0):
                page = self.page(found, level, number // 64 ** (level + 1), size) if found else {}
                found = page.get(number // 64**level % 64)
            yield (self.chunk(*found) if found else bytes(CHUNK_BYTES))[: size - position]

    def read_page(self, place: tuple[Any, ...], level: int, index: int, size: int) -> dict[int, tuple[Any, ...]]:
        """The places to which a page's slots refer. The place of a page is its pack, base, offset, length and hash."""
        pack, base, offset, length, page_hash = place
        key, fields = f"{self.folder}/maps/{base:020d}/{pack.hex()}", struct.pack("<IBQ", offset, level, index)
        with at(f"{key}, page at {offset}"), open(self.vault.root / key, "rb") as file:
            require(length <= 16 * KIB, "it is above the limit")
            require(file.read(32) == MAGIC + bytes([MAP_PACK, 0, 0, 0, 0, 0]) + pack, "it is in another map pack")
            file.seek(offset)
            stored = file.read(length)
            require(hashed(stored) == page_hash, "it is not the one referred to")
            opened = self.vault.unseal(self.keys[b"metadata"], 2, self.id + pack + fields, stored)
            *found, packs, rest = take("BQB", opened)
            require(found == [level, index] and packs <= 64, "it is another one")
            table_bytes, rest = take(f"{packs * (24 if level else 64)}s", rest)
            table = list(struct.iter_unpack("<16sQ" if level else "<64s", table_bytes))
            places: dict[int, tuple[Any, ...]] = {}
            for slot in range(64):
                full, rest = take("B", rest)
                past = (index * 64 + slot) * 64**level * CHUNK_BYTES >= size
                require(full == 0 or (full == 1 and not past), "it has a wrong slot, or one past the disk's end")
                if full:
                    number, *entry, rest = take("BII32s" if level else "BIB32s", rest)
                    places[slot] = (*table[number], *entry)
            require(not rest, "bytes follow its end")
            return places

    def chunk(self, reference: bytes, ordinal: int, number: int, identity: bytes) -> bytes:
        pack, base, _ = take("16sQ", reference)
        with at(key := f"{self.folder}/packs/{base:020d}/{pack.hex()}"):
            found, chunk = self.frame(key, reference, ordinal)[number]
            require(found == identity, f"its frame {ordinal} has another chunk than the map refers to")
            return chunk

    def read_pack(self, key: str, reference: bytes) -> tuple[bytes, bytes, list[tuple[bytes, int, list[bytes]]]]:
        """A data pack: all ids that its frames are bound to, its session's secret, and its frames, not yet opened."""
        pack, _, size, header_size, header_hash = struct.unpack("<16sQII32s", reference)
        with self.vault.opened(key, DATA_PACK, 40 * MIB) as (length, rest, data):
            require(len(data) == size and length == header_size <= MIB, "its lengths are not those referred to")
            require(hashed(data[:header_size]) == header_hash, "its header is not the one referred to")
            found, session, epoch, box, *stated = take("16s16sQ80s4s32s", rest)
            body, position, frames = data[header_size:], 0, []
            require(found == pack and stated[:2] == [struct.pack("<I", len(body)), hashed(body)], "its body is wrong")
            fields = self.id + session + pack + stated[0] + stated[1]
            count, rest = take("I", self.vault.unseal(self.keys[b"metadata"], 3, fields, data[172:header_size]))
            for _ in range(count):
                stored_size, codec, chunks, rest = take("IBB", rest)
                *identities, rest = take("32s" * chunks, rest)
                frames.append((body[position : position + stored_size], codec, identities))
                position += stored_size
            require(not rest and position == len(body), "its directory does not fit its body")
            return self.place + session + pack, self.vault.open_box(1, epoch, self.id + session, box), frames

    def read_frame(self, key: str, reference: bytes, ordinal: int) -> list[tuple[bytes, bytes]]:
        """The chunks of a frame, each behind its identity."""
        place, secret, frames = self.pack(key, reference)
        stored, codec, identities = frames[ordinal]
        require(codec <= 1 and len(identities) <= 16, f"its frame {ordinal} is of an unknown kind")
        identity, size = hashed(b"".join(identities), self.keys[b"frames"]), len(identities) * CHUNK_BYTES
        place += struct.pack("<I", ordinal)
        keys = HKDFExpand(SHA512(), 64, b"farshore/1/frame" + place + identity).derive(secret)
        lengths = struct.pack("<BBI", codec, len(identities), len(stored) - 28)
        payload = AESGCM(keys[:32]).decrypt(stored[:12], stored[12:], MAGIC + b"\x07" + place + lengths + identity)
        payload = decompress(payload, size) if codec else payload
        chunks = [payload[begin : begin + CHUNK_BYTES] for begin in range(0, len(payload), CHUNK_BYTES)]
        found = [(hashed(chunk, self.keys[b"identity"]), chunk) for chunk in chunks]
        require([name for name, _ in found] == identities, f"its frame {ordinal} has other chunks than are stated")
        return found


def list_points(vault: Vault, given: argparse.Namespace) -> None:
    """A paragraph or, as JSON, a line for each point. Names are quoted, because a terminal obeys some characters."""
    for lineage, point, disks in vault.points():
        found = [{"machine": machine, "disk": name, "size_bytes": disk["size_bytes"]} for machine, name, disk in disks]
        point = {"group": lineage.group, **point, "disks": found}
        text = "{group!r}, point {sequence}: generation {generation}, captured at {captured_at!r}".format(**point)
        lines = [text, *("    {machine!r}, {disk!r}: {size_bytes} bytes".format(**disk) for disk in found)]
        print(json.dumps(point) if given.json else "\n".join(lines))


def restore(vault: Vault, given: argparse.Namespace) -> None:
    """Writes each disk of a point to a new file, with holes where the disk is zero."""
    with at(repr(given.group), "choose a group and a point that `list` shows"):
        lineage = Lineage(vault, hashed(given.group.encode(), vault.keys[b"names"])[:16])
        commit_path = vault.root / lineage.folder / f"commits/{given.point:020}"
        require(commit_path.is_file(), f"it has no point {given.point}")
        found = [disks for point, disks in lineage.points(given.point) if point["sequence"] == given.point]
        require(found, f"its commit {given.point} is not a point")
    for machine, name, disk in found[0]:
        with at(repr(f"{machine}/{name}"), "choose another folder, or see what else is wrong"):
            safe = all(Path(part).name == part not in ("", "..") and "\\" not in part for part in (machine, name))
            require(safe, "its name would lead out of the folder")
            path = given.to / machine / f"{name}.raw"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file, ExitStack() as failed:
                failed.callback(path.unlink)  # Nothing half-written may look like a disk.
                for chunk in lineage.content(disk):
                    file.seek(len(chunk), 1) if chunk.count(0) == len(chunk) else file.write(chunk)
                file.truncate(disk["size_bytes"])
                failed.pop_all()
            print(repr(str(path)))


def verify(vault: Vault, _: argparse.Namespace) -> None:
    """Nothing is printed unless all is well: the length and SHA-256 of each disk, by group, point and machine."""
    for listed in vault.ring["slots"]:
        with vault.opened(f"keys/slots/{listed['slot']}", SLOT, 64 * KIB) as (_, _, data):
            require(hashed(data).hex() == listed["hash"], "it is not the one in the ring")
    groups: dict[str, Any] = {}
    for lineage, point, disks in vault.points():
        machines = groups.setdefault(lineage.group, {}).setdefault(str(point["sequence"]), {})
        for machine, name, disk in disks:
            with at(repr(f"{lineage.group}/{machine}/{name}")):
                sha256 = hashlib.sha256()
                for chunk in lineage.content(disk):
                    sha256.update(chunk)
                machines.setdefault(machine, {})[name] = {"bytes": disk["size_bytes"], "sha256": sha256.hexdigest()}
    print(json.dumps(groups, indent=2, sort_keys=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads a Farshore vault with its recovery kit and passphrase.")
    parser.add_argument("vault", type=Path)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--passphrase-file", type=Path, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list").add_argument("--json", action="store_true")
    commands.add_parser("verify")
    restoring = commands.add_parser("restore")
    restoring.add_argument("group")
    restoring.add_argument("point", type=int)
    restoring.add_argument("--to", type=Path, required=True)
    given = parser.parse_args()
    vault = Vault(given.vault, given.kit, given.passphrase_file, thorough=given.command == "verify")
    {"list": list_points, "restore": restore, "verify": verify}[given.command](vault, given)


if __name__ == "__main__":
    main()
