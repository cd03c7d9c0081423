#!/bin/sh
# Installs the Debian packages that building and testing need, and says which. Run by make; needs root or sudo only if
# something is missing.
set -eu

packages='
qemu-system-x86 qemu-utils ovmf seabios ipxe-qemu swtpm
xorriso mtools dosfstools e2fsprogs fdisk cpio kmod zstd xz-utils
mmdebstrap debian-archive-keyring dpkg-dev gpgv
dnsmasq-base iproute2 socat busybox xfsprogs btrfs-progs acl attr
'

if ! command -v go >/dev/null 2>&1; then
	echo "setup: Go 1.26 or later is needed and was not found; install it and put it on PATH" >&2
	exit 1
fi
missing=
for p in $packages; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null 2>&1 || { echo "setup: run as root, or install sudo; missing:$missing" >&2; exit 1; }
	as_root=sudo
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
