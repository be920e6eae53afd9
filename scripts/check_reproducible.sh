#!/bin/sh
# Builds the image of the last commit twice, in two clones, and compares the products byte by byte.
# Usage: scripts/check_reproducible.sh. Downloaded packages are shared with the builds of this tree.
#
# What may not matter differs: directory, time of day, umask, time zone, language, home directory.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
for tool in faketime git sha256sum; do
    command -v "$tool" >/dev/null || {
        echo "$tool: not found; run 'make setup' to install it" >&2
        exit 1
    }
done
steps="base delta delta-dev delta-snp kernel initrd compress qemu rootfs stub busybox ext4 vhd verity"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build DIRECTORY COMMAND...: clone into the directory, and run the command with the build in it.
build() {
    directory=$1
    shift
    git clone -q "$root" "$directory"
    mkdir -p "$directory/build" "$root/build/cache"
    ln -s "$root/build/cache" "$directory/build/cache"
    (cd "$directory" && "$@" env PYTHON="$root/.venv/bin/python3" scripts/build_initrd.sh $steps)
    (cd "$directory/out" && find . -type f | sort | xargs sha256sum) >"$directory.sums"
}

echo "first build, into $work/one"
build "$work/one" env
umask 077
echo "second build, into $work/elsewhere/two"
build "$work/elsewhere/two" env TZ=Pacific/Auckland LANG=C HOME="$work" faketime '2031-07-01 03:04:05'

if diff "$work/one.sums" "$work/elsewhere/two.sums"; then
    cat "$work/one.sums"
    echo "both builds gave the same bytes"
else
    echo "the builds differ in the files above" >&2
    exit 1
fi
