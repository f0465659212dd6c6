"""boto3's view of the twin: what the services document, asked by AWS's own client.

`check.py WHAT EC2-URL EBS-URL FOLDER [MORE]`. It ends with an error where the twin is not as documented.
"""

import base64
import hashlib
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.parsers import ResponseParserError

BLOCK = 512 * 1024
STANDARD = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
URLS = {"ec2": sys.argv[2], "ebs": sys.argv[3], "service-quotas": sys.argv[2]}
FOLDER = Path(sys.argv[4])


def client(service: str, key: str = "TWIN", secret: str = "twin-secret", attempts: int = 1, **other: Any) -> Any:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts}, parameter_validation=False)
    given = {"region_name": "eu-west-1", "config": config} | other
    given |= {"endpoint_url": URLS[service], "aws_access_key_id": key, "aws_secret_access_key": secret}
    return boto3.client(service, **given)


class Persistent:
    """A client that also tries again when an answer breaks off in its middle, which boto3 does not."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**parameters: Any) -> Any:
            for _ in range(10):
                try:
                    answer = getattr(self.of, name)(**parameters)
                    if "BlockData" in answer:
                        answer["BlockData"] = BytesIO(answer["BlockData"].read())
                    # Of half a JSON text boto3 makes an answer without fields.
                    if set(answer) > {"ResponseMetadata"} or name == "delete_snapshot":
                        return answer
                except (ResponseParserError, HTTPClientError):
                    pass
            raise AssertionError(f"{name} never gets through")

        return call


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
    found, token = {}, {}
    while True:
        page = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second, MaxResults=100, **token)
        for block in page["ChangedBlocks"]:
            found[block["BlockIndex"]] = ("FirstBlockToken" in block, "SecondBlockToken" in block)
        if "NextToken" not in page:
            return found
        token = {"NextToken": page["NextToken"]}


def signatures() -> None:
    refused("AuthFailure", client("ec2", secret="wrong").describe_volumes)
    refused("InvalidSignatureException", client("ebs", secret="wrong").start_snapshot, VolumeSize=1)
    refused("AuthFailure", client("ec2", key="NOBODY").describe_volumes)
    refused("UnrecognizedClientException", client("ebs", key="NOBODY").start_snapshot, VolumeSize=1)
    refused("InvalidSignatureException", client("service-quotas", secret="wrong").get_service_quota, **STANDARD)
    refused("UnrecognizedClientException", client("service-quotas", key="NOBODY").get_service_quota, **STANDARD)
    refused("AuthFailure", client("ec2", region_name="us-east-1").describe_volumes)
    refused("AuthFailure", client("ec2", aws_session_token="of-another").describe_volumes)
    temporary = {"key": "TEMPORARY", "secret": "temporary-secret"}
    client("ec2", aws_session_token="a-token", **temporary).describe_volumes()
    client("ebs", aws_session_token="a-token", **temporary)
    refused("AuthFailure", client("ec2", **temporary).describe_volumes)
    expired = {"key": "EXPIRED", "secret": "expired-secret", "aws_session_token": "a-token"}
    refused("RequestExpired", client("ec2", **expired).describe_volumes)
    refused("ExpiredTokenException", client("ebs", **expired).start_snapshot, VolumeSize=1)
    real = botocore.auth.get_current_datetime
    for minutes, of_ec2 in ((-10, "RequestExpired"), (10, "AuthFailure")):
        botocore.auth.get_current_datetime = lambda *given: real(*given) + timedelta(minutes=minutes)
        refused(of_ec2, client("ec2").describe_volumes)
        refused("InvalidSignatureException", client("ebs").start_snapshot, VolumeSize=1)
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
    many = made(ec2, ebs, {number: noise(number % 100) for number in range(3, 240)}, 2, ParentSnapshotId=own)
    assert set(changed(ebs, own, many)) == set(range(3, 240)), "what was put counts as changed, whatever it was before"
    ec2.delete_snapshot(SnapshotId=many)
    refused("ValidationException", ebs.list_changed_blocks, SecondSnapshotId=own)
    unrelated = made(ec2, ebs, {})
    refused("ValidationException", ebs.list_changed_blocks, FirstSnapshotId=own, SecondSnapshotId=unrelated)
    refused("ValidationException", ebs.start_snapshot, VolumeSize=1, ParentSnapshotId=child)
    token = ebs.list_snapshot_blocks(SnapshotId=own)["Blocks"][0]["BlockToken"]
    refused("ValidationException", ebs.get_snapshot_block, SnapshotId=child, BlockIndex=0, BlockToken=token)
    refused("ValidationException", ebs.get_snapshot_block, SnapshotId=own, BlockIndex=1, BlockToken=token)
    page = ebs.list_snapshot_blocks(SnapshotId=own, MaxResults=100)["NextToken"]
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=child, NextToken=page)

    refused("ValidationException", ebs.start_snapshot, VolumeSize=1, ClientToken="x" * 65)
    refused("ValidationException", ebs.start_snapshot, VolumeSize=65_537)
    nothing = {"Resources": ["snap-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "b"}]}
    refused("InvalidSnapshot.NotFound", ec2.create_tags, **nothing)
    again = {"VolumeSize": 1, "ClientToken": "one-and-the-same"}
    assert ebs.start_snapshot(**again)["SnapshotId"] == (once := ebs.start_snapshot(**again)["SnapshotId"])
    refused("ConflictException", ebs.start_snapshot, **again | {"VolumeSize": 2})
    ec2.delete_snapshot(SnapshotId=own)
    assert read(ebs, child) == content | {1: noise(77), 5: noise(5)}, "it does not need its parent"
    refused("InvalidSnapshot.NotFound", ec2.delete_snapshot, SnapshotId=own)
    for snapshot in (child, unrelated, once):
        ec2.delete_snapshot(SnapshotId=snapshot)


def run(ec2: Any, image: str, **other: Any) -> str:
    given = {"ImageId": image, "InstanceType": "t3.micro", "SubnetId": "subnet-0live"} | other
    return ec2.run_instances(MinCount=1, MaxCount=1, **given)["Instances"][0]["InstanceId"]


def instance(ec2: Any, own: str) -> Any:
    return ec2.describe_instances(InstanceIds=[own])["Reservations"][0]["Instances"][0]


def state(ec2: Any, own: str) -> str:
    return instance(ec2, own)["State"]["Name"]


def twice(ec2: Any, snapshot: str) -> None:
    mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3"}}
    image_of(ec2, "one device twice", snapshot, BlockDeviceMappings=[mapping, mapping])


def image_of(ec2: Any, name: str, *snapshots: str, **other: Any) -> str:
    devices = ["/dev/xvda", *(f"/dev/sd{letter}" for letter in "bcdef")]
    mappings = [
        {"DeviceName": device, "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3", "DeleteOnTermination": True}}
        for device, snapshot in zip(devices, snapshots)
    ]
    given = {"Name": name, "RootDeviceName": "/dev/xvda", "BlockDeviceMappings": mappings, "Architecture": "x86_64"}
    given |= {"VirtualizationType": "hvm", "EnaSupport": True, "BootMode": "legacy-bios"} | other
    image = ec2.register_image(**given)["ImageId"]
    until("available", lambda: ec2.describe_images(ImageIds=[image])["Images"][0]["State"])
    return image


def instances(ec2: Any, ebs: Any) -> None:
    boot, data = made(ec2, ebs, {0: noise(1), 9: noise(9)}), made(ec2, ebs, {3: noise(3)}, 2)
    image = image_of(ec2, "two disks", boot, data)
    refused("InvalidAMIName.Duplicate", lambda: image_of(ec2, "two disks", boot))
    refused("InvalidBlockDeviceMapping", lambda: twice(ec2, boot))
    refused("InvalidAMIName.Malformed", lambda: image_of(ec2, "a|b", boot))
    refused("InvalidBlockDeviceMapping", lambda: image_of(ec2, "no root", boot, RootDeviceName="/dev/sda1"))
    refused("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=boot)
    refused("InvalidParameterValue", lambda: run(ec2, image, InstanceType="t0.none"))
    refused("InvalidSubnetID.NotFound", lambda: run(ec2, image, SubnetId="subnet-0none"))
    refused("UnknownParameter", lambda: run(ec2, image, UserData="IyEvYmluL3No"))
    refused("InvalidParameterValue", lambda: run(ec2, image, CpuOptions={"CoreCount": 2, "ThreadsPerCore": 1}))
    refused("InvalidParameterValue", lambda: run(ec2, image, CpuOptions={"CoreCount": 1}))
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}, "CpuOptions": {"CoreCount": 1, "ThreadsPerCore": 1}}
    spot = instance(ec2, run(ec2, image, **spot))
    assert spot["InstanceLifecycle"] == "spot" and spot["CpuOptions"] == {"CoreCount": 1, "ThreadsPerCore": 1}
    ec2.terminate_instances(InstanceIds=[spot["InstanceId"]])
    until("terminated", lambda: state(ec2, spot["InstanceId"]))
    tags = [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": "us"}]} for kind in ("instance", "volume")]
    given = {"ClientToken": "run-1", "PrivateIpAddress": "10.0.1.77", "SecurityGroupIds": ["sg-0live"]}
    given |= {"TagSpecifications": tags}
    own = run(ec2, image, **given)
    assert instance(ec2, own)["State"]["Name"] != "pending" or instance(ec2, own)["BlockDeviceMappings"] == []
    assert run(ec2, image, **given) == own, "asked again it is no second instance"
    refused("IdempotentParameterMismatch", lambda: run(ec2, image, **given | {"PrivateIpAddress": "10.0.1.78"}))
    refused("InvalidIPAddress.InUse", lambda: run(ec2, image, PrivateIpAddress="10.0.1.77"))
    until("running", lambda: state(ec2, own))
    found = instance(ec2, own)
    assert found["PrivateIpAddress"] == "10.0.1.77" and found["NetworkInterfaces"][0]["SubnetId"] == "subnet-0live"
    assert "InstanceLifecycle" not in found and found["CpuOptions"] == {"CoreCount": 1, "ThreadsPerCore": 2}
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
    refused("InvalidParameterValue", ec2.describe_images, Filters=[{"Name": "colour", "Values": ["red"]}])
    others = [ebs.start_snapshot(VolumeSize=1, Description=f"{number}")["SnapshotId"] for number in range(12)]
    of_us = {"OwnerIds": ["self"], "Filters": [{"Name": "status", "Values": ["pend*"]}]}
    pages = list(ec2.get_paginator("describe_snapshots").paginate(**of_us, PaginationConfig={"PageSize": 5}))
    assert [len(page["Snapshots"]) for page in pages] == [5, 5, 2]
    assert sorted(found["SnapshotId"] for page in pages for found in page["Snapshots"]) == sorted(others)
    token = ec2.describe_snapshots(**of_us, MaxResults=5)["NextToken"]
    refused("InvalidNextToken", ec2.describe_volumes, MaxResults=5, NextToken=token)
    for other in others:
        ec2.delete_snapshot(SnapshotId=other)

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
    refused("InvalidParameterValue", lambda: freeze(ExcludeDataVolumeIds=[volumes["/dev/xvda"]]))
    refused("InvalidParameterValue", lambda: freeze(ExcludeDataVolumeIds=["vol-0123"]))
    refused("InvalidParameterValue", lambda: freeze(ExcludeDataVolumeIds=[volumes["/dev/sdb"]], ExcludeBootVolume=True))
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


def quotas() -> None:
    asked = client("service-quotas")
    refused("NoSuchResourceException", asked.get_service_quota, **STANDARD)
    default = asked.get_aws_default_service_quota(**STANDARD)["Quota"]
    assert (default["QuotaCode"], default["Value"]) == ("L-1216C47A", 5.0)
    other = {"ServiceCode": "ec2", "QuotaCode": "L-DB2E81BA"}
    assert asked.get_service_quota(**other)["Quota"]["Value"] == 48.0
    for unknown in (STANDARD | {"ServiceCode": "EC2"}, STANDARD | {"QuotaCode": "L-00000000"}):
        refused("NoSuchResourceException", asked.get_aws_default_service_quota, **unknown)
    refused("UnknownOperationException", asked.list_services)


def wire() -> None:
    ec2, ebs = client("ec2"), client("ebs")
    signatures()
    quotas()
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
    quotas = client("service-quotas", "LIMITED", "limited-secret")
    quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-DB2E81BA")
    refused("AccessDeniedException", quotas.get_aws_default_service_quota, **STANDARD)
    ec2.delete_snapshot(SnapshotId=snapshot)
    client("ec2").delete_snapshot(SnapshotId=others)


def drill() -> None:
    """With the policy of a drill: instances of its own in the subnet of drills, and nothing that is live."""
    ec2, all_ec2, all_ebs = client("ec2", "DRILL", "drill-secret"), client("ec2"), client("ebs")
    image = image_of(all_ec2, "a machine", made(all_ec2, all_ebs, {0: noise(1)}))
    live = run(all_ec2, image, ClientToken="the-run")
    own = [{"ResourceType": kind, "Tags": [{"Key": "farshore-owner", "Value": "a"}]} for kind in ("instance", "volume")]
    in_drill = {"SubnetId": "subnet-0drill", "SecurityGroupIds": ["sg-0drill"], "TagSpecifications": own}
    refused("UnauthorizedOperation", lambda: run(ec2, image, TagSpecifications=own))
    refused("UnauthorizedOperation", lambda: run(ec2, image, **in_drill | {"SubnetId": "subnet-0live"}))
    refused("UnauthorizedOperation", lambda: run(ec2, image, **in_drill | {"SecurityGroupIds": ["sg-0live"]}))
    refused("UnauthorizedOperation", lambda: run(ec2, image, **in_drill | {"TagSpecifications": []}))
    refused("UnauthorizedOperation", lambda: run(ec2, image, ClientToken="the-run"))
    drilled = run(ec2, image, **in_drill)
    for verb in (ec2.stop_instances, ec2.terminate_instances):
        refused("UnauthorizedOperation", verb, InstanceIds=[live])
        refused("UnauthorizedOperation", verb, InstanceIds=[drilled, live])
    refused("UnauthorizedOperation", ec2.create_snapshots, InstanceSpecification={"InstanceId": live})
    refused("UnauthorizedOperation", ec2.create_tags, Resources=[live], Tags=own[0]["Tags"])
    ec2.terminate_instances(InstanceIds=[drilled])
    until("terminated", lambda: state(all_ec2, drilled))
    assert state(all_ec2, live) == "running"


def storm() -> None:
    """The twin goes wrong all the time, and a client that tries again gets through."""
    ec2, ebs = Persistent(client("ec2", attempts=10)), Persistent(client("ebs", attempts=10))
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
    for _ in range(3):
        assert read(ebs, snapshot) == content
    for number in range(40):
        ec2.describe_snapshots()
    try:
        ec2.delete_snapshot(SnapshotId=snapshot)
    except ClientError as error:
        # The answer to the first try was lost.
        assert error.response["Error"]["Code"] == "InvalidSnapshot.NotFound"


def short() -> None:
    """Pages with fewer blocks than there is room for, or none, and blocks that are said to have changed."""
    ec2, ebs = client("ec2"), client("ebs")
    content = {number: noise(number % 250) for number in range(300)}
    first = made(ec2, ebs, content)
    second = made(ec2, ebs, {5: noise(9)}, ParentSnapshotId=first)
    assert read(ebs, second) == content | {5: noise(9)}
    found = changed(ebs, first, second)
    assert 5 in found and 5 < len(found) < 100, f"{len(found)} blocks are said to have changed"


def begin() -> None:
    """Prints a snapshot whose blocks are not all put, one that is whole, and tokens of it."""
    ec2, ebs = client("ec2"), client("ebs")
    half = ebs.start_snapshot(VolumeSize=1, Timeout=10)["SnapshotId"]
    put(ebs, half, 0, noise(1))
    whole = made(ec2, ebs, {number: noise(1) for number in range(101)})
    page = ebs.list_snapshot_blocks(SnapshotId=whole, MaxResults=100)
    tokens = {"page": page["NextToken"], "block": page["Blocks"][0]["BlockToken"]}
    print(json.dumps({"half": half, "whole": whole} | tokens))


def late(told: str) -> None:
    """The same when there was time for the first to expire, and for the page's token."""
    begun, ec2, ebs = json.loads(told), client("ec2"), client("ebs")
    assert status(ec2, begun["half"]) == "error"
    refused("ValidationException", lambda: put(ebs, begun["half"], 1, noise(1)))
    refused("ValidationException", lambda: complete(ebs, begun["half"], {0: noise(1)}))
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=begun["whole"], NextToken=begun["page"])
    ebs.get_snapshot_block(SnapshotId=begun["whole"], BlockIndex=0, BlockToken=begun["block"])


def later(told: str) -> None:
    """The same when the block's token has expired too."""
    begun, ebs = json.loads(told), client("ebs")
    refused(
        "ValidationException",
        ebs.get_snapshot_block,
        SnapshotId=begun["whole"],
        BlockIndex=0,
        BlockToken=begun["block"],
    )


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
    own = run(ec2, image_of(ec2, "tiny", snapshot))
    print(json.dumps({"instance": own, "snapshot": snapshot, "blocks": len(content)}))


def freeze(own: str, before: str) -> None:
    """Freezes a running instance's volume, turns it off, runs another one of what was frozen, and prints it all."""
    ec2, ebs = client("ec2"), client("ebs")
    [frozen] = ec2.create_snapshots(InstanceSpecification={"InstanceId": own})["Snapshots"]
    until("completed", lambda: status(ec2, frozen["SnapshotId"]))
    checks = ec2.describe_instance_status(InstanceIds=[own])["InstanceStatuses"][0]["InstanceStatus"]["Status"]
    console = ec2.get_console_output(InstanceId=own)["Output"]
    told = {"changed": len(changed(ebs, before, frozen["SnapshotId"])), "checks": checks, "console": console}
    ec2.stop_instances(InstanceIds=[own])
    ec2.stop_instances(InstanceIds=[own])
    until("stopped", lambda: state(ec2, own), 120)
    again = run(ec2, image_of(ec2, "frozen", frozen["SnapshotId"]))
    print(json.dumps(told | {"all": len(read(ebs, frozen["SnapshotId"])), "again": again}))


if __name__ == "__main__":
    what, *rest = sys.argv[1], *sys.argv[5:]
    {
        "wire": wire,
        "policy": policy,
        "drill": drill,
        "storm": storm,
        "short": short,
        "begin": begin,
        "late": late,
        "later": later,
        "boot": lambda disk: boot(Path(disk)),
        "freeze": freeze,
    }[what](*rest)
