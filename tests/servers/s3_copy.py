#!/usr/bin/env python3
"""Copies what lies below a prefix of an S3 bucket into a folder, for readers of files; no code of Tarn takes part.

usage: s3_copy.py ENDPOINT BUCKET PREFIX FOLDER

FOLDER is emptied first. Prints how many objects there are.
"""

import pathlib
import shutil
import sys

import boto3


def main():
    endpoint, bucket, prefix, folder = sys.argv[1:]
    shutil.rmtree(folder, ignore_errors=True)
    s3 = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="reader", aws_secret_access_key="reader"
    )
    count = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            path = pathlib.Path(folder, entry["Key"].removeprefix(prefix).lstrip("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())
            count += 1
    print(count)


if __name__ == "__main__":
    main()
