"""boto3's view of the twin: what the services document, asked by AWS's own client.

`check.py wire|policy|storm|boot URL FOLDER [DISK]`. It ends with an error where the twin is not as documented.
"""

import base64
import hashlib
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
from botocore.config import Config
from botocore.exceptions import ClientError

BLOCK = 512 * 1024
URL, FOLDER = sys.argv[2], Path(sys.argv[3])


def client(service: str, key: str = "TWIN", secret: str = "twin-secret", attempts: int = 1, **other: Any) -> Any:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts}, parameter_validation=False)
    given = {"region_name": "eu-west-1", "config": config} | other
    return boto3.client(service, endpoint_url=URL, aws_access_key_id=key, aws_secret_access_key=secret, **given)


def refused(code: str, call: Callable[..., Any], **parameters: Any) -> None:
    try:
        answer = call(**parameters)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, f"{error.response['Error']} instead of {code}"
        return
    raise AssertionError(f"{code} was expected, and came {answer}")


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def put(ebs: Any, snapshot: str, number: int, data: bytes, **other: Any) -> Any:
    given = {"DataLength": len(data), "Checksum": checksum(data), "ChecksumAlgorithm": "SHA256"} | other
    return ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=number, BlockData=data, **given)


def complete(ebs: Any, snapshot: str, blocks: dict[int, bytes], **other: Any) -> Any:
    digests = b"".join(hashlib.sha256(blocks[number]).digest() for number in sorted(blocks))
    given = {"ChangedBlocksCount": len(blocks), "Checksum": checksum(digests), "ChecksumAlgorithm": "SHA256"}
    given |= {"ChecksumAggregationMethod": "LINEAR"} | other
    return ebs.complete_snapshot(SnapshotId=snapshot, **given)


def until(wanted: Any, look: Callable[[], Any], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while (found := look()) != wanted:
        assert time.monotonic() < ends, f"{found!r} instead of {wanted!r} for {seconds} s"
        time.sleep(0.05)


def status(ec2: Any, snapshot: str) -> str:
    return ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"]


def made(ec2: Any, ebs: Any, blocks: dict[int, bytes], gib: int = 1, **other: Any) -> str:
    snapshot = ebs.start_snapshot(VolumeSize=gib, **other)["SnapshotId"]
    for number, data in blocks.items():
        put(ebs, snapshot, number, data)
    complete(ebs, snapshot, blocks)
    until("completed", lambda: status(ec2, snapshot))
    return snapshot


def noise(seed: int) -> bytes:
    return hashlib.shake_256(bytes([seed])).digest(BLOCK)


def read(ebs: Any, snapshot: str) -> dict[int, bytes]:
    """All blocks, page by page, each compared with its checksum."""
    found, token = {}, {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100, **token)
        assert page["BlockSize"] == BLOCK
        for block in page["Blocks"]:
            got = ebs.get_snapshot_block(SnapshotId=snapshot, **block)
            data = got["BlockData"].read()
            assert (len(data), checksum(data)) == (got["DataLength"], got["Checksum"])
            found[block["BlockIndex"]] = data
        if "NextToken" not in page:
            return found
        token = {"NextToken": page["NextToken"]}


def changed(ebs: Any, first: str, second: str) -> dict[int, tuple[bool, bool]]:
    page = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)
    return {block["BlockIndex"]: ("FirstBlockToken" in block, "SecondBlockToken" in block) for block in page["ChangedBlocks"]}


def signatures() -> None:
    refused("SignatureDoesNotMatch", client("ec2", secret="wrong").describe_volumes)
    refused("InvalidSignatureException", client("ebs", secret="wrong").start_snapshot, VolumeSize=1)
    refused("AuthFailure", client("ec2", key="NOBODY").describe_volumes)
    refused("UnrecognizedClientException", client("ebs", key="NOBODY").start_snapshot, VolumeSize=1)
    refused("AuthFailure", client("ec2", region_name="us-east-1").describe_volumes)
    refused("AuthFailure", client("ec2", aws_session_token="of-another").describe_volumes)
    real = botocore.auth.get_current_datetime
    for minutes in (-10, 10):
        botocore.auth.get_current_datetime = lambda *given: real(*given) + __import__("datetime").timedelta(minutes=minutes)
        refused("RequestExpired", client("ec2").describe_volumes)
    botocore.auth.get_current_datetime = real


def blocks(ec2: Any, ebs: Any) -> None:
    snapshot = ebs.start_snapshot(VolumeSize=1, Description="a test", Tags=[{"Key": "of", "Value": "us"}])
    assert (snapshot["Status"], snapshot["VolumeSize"], snapshot["BlockSize"]) == ("pending", 1, BLOCK)
    own = snapshot["SnapshotId"]
    refused("ValidationException", lambda: put(ebs, own, 0, noise(1), Checksum=checksum(noise(2))))
    refused("ValidationException", lambda: put(ebs, own, 0, noise(1)[:-1]))
    refused("ValidationException", lambda: put(ebs, own, 2048, noise(1)))
    refused("ValidationException", lambda: put(ebs, own, 0, noise(1), ChecksumAlgorithm="MD5"))
    refused("ResourceNotFoundException", lambda: put(ebs, "snap-0123", 0, noise(1)))
    content = {number: noise(number % 250) for number in [0, 1, *range(7, 250, 2), 2047]}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: put(ebs, own, number, content[number]), content))
    put(ebs, own, 0, content[0])  # Once more is no mistake.
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=own)
    assert complete(ebs, own, content)["Status"] == "pending"
    refused("ValidationException", lambda: put(ebs, own, 3, noise(3)))
    until("completed", lambda: status(ec2, own))
    assert complete(ebs, own, content)["Status"] == "completed", "once more is no mistake"
    assert read(ebs, own) == content
    listed = ec2.describe_snapshots(Filters=[{"Name": "tag:of", "Values": ["us"]}], OwnerIds=["self"])["Snapshots"]
    assert [found["SnapshotId"] for found in listed] == [own]

    for wrong in ({"ChangedBlocksCount": 2}, {"Checksum": checksum(b"")}):
        other = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
        put(ebs, other, 0, noise(1))
        complete(ebs, other, {0: noise(1)}, **wrong)
        until("error", lambda: status(ec2, other))
        refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=other)
        ec2.delete_snapshot(SnapshotId=other)

    child = made(ec2, ebs, {1: noise(77), 5: noise(5)}, 2, ParentSnapshotId=own)
    assert read(ebs, child) == content | {1: noise(77), 5: noise(5)}, "it has what its parent has"
    assert changed(ebs, own, child) == {1: (True, True), 5: (False, True)}
    assert changed(ebs, child, own) == {1: (True, True), 5: (True, False)}
    unrelated = made(ec2, ebs, {})
    refused("ValidationException", ebs.list_changed_blocks, FirstSnapshotId=own, SecondSnapshotId=unrelated)
    refused("ValidationException", ebs.start_snapshot, VolumeSize=1, ParentSnapshotId=child)
    token = ebs.list_snapshot_blocks(SnapshotId=own)["Blocks"][0]["BlockToken"]
    refused("ValidationException", ebs.get_snapshot_block, SnapshotId=child, BlockIndex=0, BlockToken=token)
    refused("ValidationException", ebs.get_snapshot_block, SnapshotId=own, BlockIndex=1, BlockToken=token)
    page = ebs.list_snapshot_blocks(SnapshotId=own, MaxResults=100)["NextToken"]
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=child, NextToken=page)

    again = {"VolumeSize": 1, "ClientToken": "one-and-the-same"}
    assert ebs.start_snapshot(**again)["SnapshotId"] == (once := ebs.start_snapshot(**again)["SnapshotId"])
    refused("ConflictException", ebs.start_snapshot, **again | {"VolumeSize": 2})
    ec2.delete_snapshot(SnapshotId=own)
    assert read(ebs, child) == content | {1: noise(77), 5: noise(5)}, "it does not need its parent"
    refused("InvalidSnapshot.NotFound", ec2.delete_snapshot, SnapshotId=own)
    for snapshot in (child, unrelated, once):
        ec2.delete_snapshot(SnapshotId=snapshot)


def run(ec2: Any, image: str, **other: Any) -> str:
    given = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "SubnetId": "subnet-0live"} | other
    return ec2.run_instances(**given)["Instances"][0]["InstanceId"]


def instance(ec2: Any, own: str) -> Any:
    return ec2.describe_instances(InstanceIds=[own])["Reservations"][0]["Instances"][0]


def state(ec2: Any, own: str) -> str:
    return instance(ec2, own)["State"]["Name"]


def image_of(ec2: Any, name: str, *snapshots: str, **other: Any) -> str:
    devices = ["/dev/xvda", *(f"/dev/sd{letter}" for letter in "bcdef")]
    mappings = [
        {"DeviceName": device, "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3", "DeleteOnTermination": True}}
        for device, snapshot in zip(devices, snapshots)
    ]
    given = {"Name": name, "RootDeviceName": "/dev/xvda", "BlockDeviceMappings": mappings, "Architecture": "x86_64"}
    given |= {"VirtualizationType": "hvm", "EnaSupport": True, "BootMode": "legacy-bios"} | other
    return ec2.register_image(**given)["ImageId"]


def instances(ec2: Any, ebs: Any) -> None:
    boot, data = made(ec2, ebs, {0: noise(1), 9: noise(9)}), made(ec2, ebs, {3: noise(3)}, 2)
    image = image_of(ec2, "two disks", boot, data)
    refused("InvalidAMIName.Duplicate", lambda: image_of(ec2, "two disks", boot))
    refused("InvalidAMIName.Malformed", lambda: image_of(ec2, "a|b", boot))
    refused("InvalidBlockDeviceMapping", lambda: image_of(ec2, "no root", boot, RootDeviceName="/dev/sda1"))
    refused("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=boot)
    refused("InvalidParameterValue", lambda: run(ec2, image, InstanceType="t0.none"))
    refused("InvalidSubnetID.NotFound", lambda: run(ec2, image, SubnetId="subnet-0none"))
    refused("UnknownParameter", lambda: run(ec2, image, UserData="IyEvYmluL3No"))
    tags = [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": "us"}]} for kind in ("instance", "volume")]
    given = {"ClientToken": "run-1", "PrivateIpAddress": "10.0.1.77", "TagSpecifications": tags, "SecurityGroupIds": ["sg-0live"]}
    own = run(ec2, image, **given)
    assert run(ec2, image, **given) == own, "asked again it is no second instance"
    refused("IdempotentParameterMismatch", lambda: run(ec2, image, **given | {"PrivateIpAddress": "10.0.1.78"}))
    refused("InvalidIPAddress.InUse", lambda: run(ec2, image, PrivateIpAddress="10.0.1.77"))
    until("running", lambda: state(ec2, own))
    found = instance(ec2, own)
    assert found["PrivateIpAddress"] == "10.0.1.77" and found["NetworkInterfaces"][0]["SubnetId"] == "subnet-0live"
    assert found["CurrentInstanceBootMode"] == "legacy-bios" and found["RootDeviceName"] == "/dev/xvda"
    volumes = {disk["DeviceName"]: disk["Ebs"]["VolumeId"] for disk in found["BlockDeviceMappings"]}
    of_tag = [{"Name": "tag:of", "Values": ["us"]}]
    pages = list(ec2.get_paginator("describe_volumes").paginate(Filters=of_tag, PaginationConfig={"PageSize": 5}))
    sizes = {volume["VolumeId"]: volume["Size"] for page in pages for volume in page["Volumes"]}
    assert sizes == {volumes["/dev/xvda"]: 1, volumes["/dev/sdb"]: 2}
    kind = ec2.describe_instance_types(InstanceTypes=["t3.micro"])["InstanceTypes"][0]
    assert (kind["VCpuInfo"]["DefaultVCpus"], kind["MemoryInfo"]["SizeInMiB"]) == (2, 1024)
    refused("InvalidInstanceType", ec2.describe_instance_types, InstanceTypes=["t0.none"])
    refused("InvalidParameterCombination", ec2.describe_volumes, VolumeIds=list(sizes), MaxResults=5)
    refused("InvalidParameterValue", ec2.describe_instances, Filters=[{"Name": "colour", "Values": ["red"]}])

    def freeze(**other: Any) -> dict[str, str]:
        specification = {"InstanceId": own} | other
        frozen = ec2.create_snapshots(
            InstanceSpecification=specification,
            CopyTagsFromSource="volume",
            TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": "at", "Value": "once"}]}],
        )["Snapshots"]
        for snapshot in frozen:
            assert snapshot["State"] == "pending" and {"Key": "of", "Value": "us"} in snapshot["Tags"]
            until("completed", lambda: status(ec2, snapshot["SnapshotId"]))
        return {snapshot["VolumeId"]: snapshot["SnapshotId"] for snapshot in frozen}

    first = freeze()
    assert set(first) == set(sizes)
    assert read(ebs, first[volumes["/dev/xvda"]]) == {0: noise(1), 9: noise(9)}
    with (FOLDER / own / "-dev-xvda.raw").open("r+b") as disk:
        for at, written in ((0, noise(1)), (100 * BLOCK + 4096, b"x" * 4096), (9 * BLOCK, bytes(BLOCK))):
            disk.seek(at)
            disk.write(written)
    second = freeze(ExcludeDataVolumeIds=[volumes["/dev/sdb"]])
    assert set(second) == {volumes["/dev/xvda"]}
    before, after = first[volumes["/dev/xvda"]], second[volumes["/dev/xvda"]]
    assert changed(ebs, before, after) == {9: (True, True), 100: (False, True)}
    assert read(ebs, after) == {0: noise(1), 9: bytes(BLOCK), 100: bytes(4096) + b"x" * 4096 + bytes(BLOCK - 8192)}

    refused("VolumeInUse", ec2.delete_volume, VolumeId=volumes["/dev/sdb"])
    ec2.stop_instances(InstanceIds=[own])
    until("stopped", lambda: state(ec2, own))
    ec2.stop_instances(InstanceIds=[own])
    ec2.start_instances(InstanceIds=[own])
    until("running", lambda: state(ec2, own))
    ec2.terminate_instances(InstanceIds=[own])
    until("terminated", lambda: state(ec2, own))
    refused("IncorrectInstanceState", ec2.stop_instances, InstanceIds=[own])
    assert ec2.describe_volumes()["Volumes"] == []
    ec2.deregister_image(ImageId=image)
    refused("InvalidAMIID.NotFound", lambda: run(ec2, image))
    for snapshot in (boot, data, *first.values(), *second.values()):
        ec2.delete_snapshot(SnapshotId=snapshot)


def wire() -> None:
    ec2, ebs = client("ec2"), client("ebs")
    signatures()
    blocks(ec2, ebs)
    instances(ec2, ebs)
    assert ec2.describe_snapshots()["Snapshots"] == []


def policy() -> None:
    """With the policy of an adapter that only makes snapshots of its own."""
    ec2, ebs = client("ec2", "LIMITED", "limited-secret"), client("ebs", "LIMITED", "limited-secret")
    own = [{"Key": "farshore-owner", "Value": "a"}]
    refused("AccessDeniedException", ebs.start_snapshot, VolumeSize=1)
    refused("AccessDeniedException", ebs.start_snapshot, VolumeSize=1, Tags=[{"Key": "farshore-owner", "Value": "b"}])
    snapshot = made(ec2, ebs, {0: noise(1)}, Tags=own)
    assert read(ebs, snapshot) == {0: noise(1)}
    others = made(client("ec2"), client("ebs"), {0: noise(1)})
    refused("AccessDeniedException", ebs.list_snapshot_blocks, SnapshotId=others)
    refused("UnauthorizedOperation", ec2.delete_snapshot, SnapshotId=others)
    refused("UnauthorizedOperation", ec2.create_tags, Resources=[others], Tags=own)
    refused("UnauthorizedOperation", ec2.describe_instances)
    ec2.delete_snapshot(SnapshotId=snapshot)
    client("ec2").delete_snapshot(SnapshotId=others)


def storm() -> None:
    """The twin goes wrong all the time, and a client that tries again gets through."""
    ec2, ebs = client("ec2", attempts=10), client("ebs", attempts=10)
    content = {number: noise(number) for number in range(40)}
    snapshot = ebs.start_snapshot(VolumeSize=1, ClientToken="in-a-storm")["SnapshotId"]
    for number, data in content.items():
        put(ebs, snapshot, number, data)
    complete(ebs, snapshot, content)

    def seen() -> str:
        try:
            return status(ec2, snapshot)
        except ClientError as error:
            return error.response["Error"]["Code"]

    until("completed", seen)
    assert read(ebs, snapshot) == content
    ec2.delete_snapshot(SnapshotId=snapshot)


def boot(disk: Path) -> None:
    """Puts a disk, runs an instance of it, and prints its id and that of the snapshot."""
    ec2, ebs = client("ec2"), client("ebs")
    content = {}
    with disk.open("rb") as file:
        for number in range((disk.stat().st_size + BLOCK - 1) // BLOCK):
            data = file.read(BLOCK).ljust(BLOCK, b"\0")
            if data.strip(b"\0"):
                content[number] = data
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: put(ebs, snapshot, number, content[number]), content))
    complete(ebs, snapshot, content)
    until("completed", lambda: status(ec2, snapshot))
    print(json.dumps({"instance": run(ec2, image_of(ec2, "tiny", snapshot)), "snapshot": snapshot, "blocks": len(content)}))


def freeze(own: str, before: str) -> None:
    """Freezes a running instance's volume, and prints how many blocks changed and what it has on its console."""
    ec2, ebs = client("ec2"), client("ebs")
    [frozen] = ec2.create_snapshots(InstanceSpecification={"InstanceId": own})["Snapshots"]
    until("completed", lambda: status(ec2, frozen["SnapshotId"]))
    checks = ec2.describe_instance_status(InstanceIds=[own])["InstanceStatuses"][0]["InstanceStatus"]["Status"]
    console = ec2.get_console_output(InstanceId=own)["Output"]
    told = {"changed": len(changed(ebs, before, frozen["SnapshotId"])), "checks": checks, "console": console}
    ec2.stop_instances(InstanceIds=[own])
    until("stopped", lambda: state(ec2, own), 120)
    print(json.dumps(told | {"all": len(read(ebs, frozen["SnapshotId"]))}))


if __name__ == "__main__":
    what, *rest = sys.argv[1], *sys.argv[4:]
    {"wire": wire, "policy": policy, "storm": storm, "boot": lambda: boot(Path(rest[0])), "freeze": lambda: freeze(*rest)}[what]()
