#!/bin/sh
# Starts the S3 server of the profile s3 with the bucket `scores`. Its key is in the file that its clients read, so that it
# is in no environment that `docker inspect` shows.
set -eu
credentials=/run/secrets/store/credentials
value() { sed -n "s/^$1 *= *//p" "$credentials"; }

# A bucket is a folder. Metadata are kept beside it, because not every file system has extended attributes.
mkdir -p /var/lib/s3/objects/scores /var/lib/s3/metadata
ROOT_ACCESS_KEY_ID=$(value aws_access_key_id)
ROOT_SECRET_ACCESS_KEY=$(value aws_secret_access_key)
export ROOT_ACCESS_KEY_ID ROOT_SECRET_ACCESS_KEY
exec versitygw --port :7070 --health /health --keep-alive --quiet posix --sidecar /var/lib/s3/metadata /var/lib/s3/objects
