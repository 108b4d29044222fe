#!/usr/bin/env python3
"""Furnishes the two stand-ins for AWS that the tests use, and prints where everything is.

    aws.py MINISTACK_ENDPOINT MOTO_ENDPOINT     one `S3_EXPORT_{MINISTACK,MOTO}_NAME value` a line

Each gets a user with an access key, a role `export` that the user may assume with an external id, and the bucket
`exports`. Both are freshly started, and from here on check signatures, session tokens and policies of every request.
What only one of them can tell:

    ministack   a missing external id, a session that has expired, a session policy, a region that is not the bucket's
                (301; `exports-frankfurt` lies in eu-central-1), a wrong checksum, a clock that is off
    moto        that nothing but the role reaches the bucket: ministack's user may do so without it

It needs the boto3 that comes along with moto.
"""

import json
import secrets
import sys
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

REGION = "us-east-1"
ROLE = "export"
USER = "exporter"
# Path-style, for there is no DNS; and the first answer counts, since retries would only make an error late.
CONFIG = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)


def policy(**statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


class StandIn:
    """One server, and what its administrator does once, with whatever key it takes for the administrator's."""

    def __init__(self, endpoint, buckets):
        self.endpoint = endpoint
        self.buckets = buckets
        self.external_id = f"s3_export-{secrets.token_hex(8)}"
        self.account = self.client("sts").get_caller_identity()["Account"]
        self.role = f"arn:aws:iam::{self.account}:role/{ROLE}"

    def client(self, service, key_id="test", secret="test", region=REGION):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=CONFIG,
        )

    def furnish(self, *, user_policy):
        for bucket, region in self.buckets.items():
            # The one region that must not be named as a location.
            elsewhere = {} if region == REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            self.client("s3", region=region).create_bucket(Bucket=bucket, **elsewhere)
        iam = self.client("iam")
        user = iam.create_user(UserName=USER)["User"]
        iam.put_user_policy(UserName=USER, PolicyName=USER, PolicyDocument=user_policy)
        trust = policy(
            Action="sts:AssumeRole",
            Principal={"AWS": user["Arn"]},
            Condition={"StringEquals": {"sts:ExternalId": self.external_id}},
        )
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust)
        resources = [f"arn:aws:s3:::{bucket}{objects}" for bucket in self.buckets for objects in ("", "/*")]
        iam.put_role_policy(RoleName=ROLE, PolicyName=ROLE, PolicyDocument=policy(Action="s3:*", Resource=resources))
        self.key = iam.create_access_key(UserName=USER)["AccessKey"]

    def check(self):
        """A stand-in that lets everything through would make every test of a refusal wrong, or worse, right."""
        key_id, secret = self.key["AccessKeyId"], self.key["SecretAccessKey"]
        session = {"RoleArn": self.role, "RoleSessionName": "check", "ExternalId": self.external_id}
        self.client("sts", key_id, secret).assume_role(**session)
        try:
            self.client("sts", key_id, secret[::-1]).assume_role(**session)
        except ClientError:
            return
        sys.exit(f"aws.py: {self.endpoint} takes a wrong secret")

    def settings(self):
        return {
            "ENDPOINT": self.endpoint,
            "ACCESS_KEY_ID": self.key["AccessKeyId"],
            "SECRET_ACCESS_KEY": self.key["SecretAccessKey"],
            "ROLE": self.role,
            "EXTERNAL_ID": self.external_id,
        }


def main(*endpoints):
    if len(endpoints) != 2:
        sys.exit(__doc__)
    ministack = StandIn(endpoints[0], {"exports": REGION, "exports-frankfurt": "eu-central-1"})
    ministack.furnish(user_policy=policy(Action=["s3:*", "sts:AssumeRole"], Resource="*"))
    moto = StandIn(endpoints[1], {"exports": REGION})
    # By itself the user reaches no bucket, so that what arrives came by way of the role.
    moto.furnish(user_policy=policy(Action="sts:AssumeRole", Resource=moto.role))
    # So many requests more are not checked. Of urllib's own type, moto would take the body for a form.
    start = urllib.request.Request(f"{moto.endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    urllib.request.urlopen(start, timeout=30).close()
    for name, server in (("MINISTACK", ministack), ("MOTO", moto)):
        server.check()
        for setting, value in server.settings().items():
            print(f"S3_EXPORT_{name}_{setting}", value)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (BotoCoreError, ClientError, OSError) as error:
        sys.exit(f"aws.py: {error}")
