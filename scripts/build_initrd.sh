#!/bin/sh
# Makes the boot image. Usage: scripts/build_initrd.sh [STEP...]
#
# Steps: base delta delta-dev delta-snp kernel initrd compress qemu rootfs ext4 vhd verity stub busybox
# (default: base delta kernel initrd compress qemu rootfs stub busybox),
# and lock, which writes scripts/image/packages.lock anew.
# Environment:
#   BASE               root file system to lay the delta over: tar or cpio, gzipped or not
#                      (default: built from Debian's packages)
#   SOURCE_DATE_EPOCH  time of every file, in seconds (default: time of the last commit)
#   RUNTIME            container runtime of the default base: runc or crun (default: runc)
#   DEV_BUILD, SNP_BUILD, USR_MERGED_ROOTFS, KMOD, ROOTFS_DEVICE, HASH_DEVICE: see the Makefile
#   ARCH               machine it is for: amd64 or arm64 (default: this machine's)
#   OUT, BUILD         where products and intermediate files go (default: out, build)
#   COMPRESSION        of initrd.img: gzip (default), zstd, lz4 or none
#   LOCKED             1: fail where a version of packages.lock can't be had (default: warn)
#   PYTHON             interpreter of the virtual environment (default: .venv/bin/python3)
set -eu

BASE=${BASE:-}
if [ -n "$BASE" ]; then
    BASE=$(readlink -f -- "$BASE") || { echo "build_initrd: BASE: no such file" >&2; exit 1; }
fi
cd "$(dirname "$0")/.."

fail() {
    echo "build_initrd: $*" >&2
    exit 1
}

PYTHON=${PYTHON:-.venv/bin/python3}
[ -x "$PYTHON" ] || fail "$PYTHON: not found; run 'make setup' first"
for tool in apt-get dpkg-deb strip objcopy patchelf depmod git gcc; do
    command -v "$tool" >/dev/null || fail "$tool: not found; run 'make setup' to install it"
done

commit=$(git rev-parse HEAD 2>/dev/null) || commit=unknown
branch=$(git rev-parse --abbrev-ref HEAD 2>/dev/null) || branch=unknown
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
case ${LOCKED:-} in '' | 0) locked= ;; *) locked=yes ;; esac

on() {
    case $2 in
    1) return 0 ;;
    0 | '') return 1 ;;
    *) fail "$1=$2: expected 0 or 1" ;;
    esac
}
! on USR_MERGED_ROOTFS "${USR_MERGED_ROOTFS:-}" || options="${options:-} --usr-merged"
! on KMOD "${KMOD:-}" || options="${options:-} --kmod"
delta=delta
! on DEV_BUILD "${DEV_BUILD:-}" || delta=delta-dev
! on SNP_BUILD "${SNP_BUILD:-}" || delta=delta-snp

[ $# -gt 0 ] || set -- base delta kernel initrd compress qemu rootfs stub busybox
# shellcheck disable=SC2086 # options are words without blanks
exec env LC_ALL=C.UTF-8 TZ=UTC "$PYTHON" -B -m scripts.image \
    ${ARCH:+--arch "$ARCH"} --out "${OUT:-out}" --build "${BUILD:-build}" ${BASE:+--base "$BASE"} \
    ${locked:+--locked} ${COMPRESSION:+--compression "$COMPRESSION"} \
    ${RUNTIME:+--runtime "$RUNTIME"} --delta "$delta" ${options:-} \
    ${ROOTFS_DEVICE:+--rootfs-device "$ROOTFS_DEVICE"} ${HASH_DEVICE:+--hash-device "$HASH_DEVICE"} \
    --epoch "$epoch" --commit "$commit" --branch "$branch" "$@"
