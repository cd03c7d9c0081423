#!/bin/sh
# Installs the Debian packages that building and testing need, and says which. Run by make; needs root or sudo only if
# something is missing. Packages may be added to the list freely: no server is left running or enabled.
set -eu

packages='
qemu-system-x86 qemu-utils ovmf seabios ipxe-qemu swtpm
xorriso mtools dosfstools e2fsprogs fdisk cpio kmod zstd xz-utils
mmdebstrap debian-archive-keyring dpkg-dev gpgv
dnsmasq-base nginx-light kea-dhcp4-server isc-dhcp-server isc-dhcp-relay iproute2 socat busybox xfsprogs btrfs-progs acl attr sqlite3
tftp-hpa atftp tftpd-hpa curl
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
# Left behind by an installation that was killed: see below.
mark='# written by setup.sh of Branchpoint while it installs packages'
# atftpd cannot be installed beside tftpd-hpa, the other one it is measured with: its program alone is taken.
atftpd=/usr/local/sbin/atftpd
if [ -z "$missing" ] && [ -x "$atftpd" ] && ! grep -qsxF "$mark" /usr/sbin/policy-rc.d; then exit 0; fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null 2>&1 || { echo "setup: run as root, or install sudo; missing:$missing" >&2; exit 1; }
	as_root=sudo
fi
[ -z "$missing" ] || echo "setup: installing$missing"
# Debian starts the servers it installs, and again whenever the computer starts. Here they are peers to be measured: nobody
# asked for a DHCP server on their network. So starting is forbidden while this installs (policy-rc.d, exit status 101:
# /usr/share/doc/init-system-helpers/README.policy-rc.d.gz), and what the installation has enabled is disabled again, which
# is what "systemctl disable" and "update-rc.d NAME disable" would do. What was on this computer before stays as it was.
# shellcheck disable=SC2086
$as_root sh -s -- "$mark" "$atftpd" $missing <<'ROOT'
set -eu
mark=$1 atftpd=$2
shift 2
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
theirs=$policy.before-branchpoint
exec 9>/run/lock/branchpoint-setup
flock 9 # one at a time: they would take each other's policy away
work=$(mktemp -d)

# enabled lists the links that make systemd or SysV init start something.
enabled() {
	find /etc/systemd/system /etc/rc[2-5S].d \( -path '*.wants/*' -o -path '*.requires/*' -o -name 'S[0-9]*' \) -type l 2>/dev/null | LC_ALL=C sort
}

finish() {
	status=$?
	set +e
	trap - EXIT
	rm -f "$policy"
	[ ! -e "$theirs" ] || mv "$theirs" "$policy"
	enabled >"$work/after"
	LC_ALL=C comm -13 "$work/before" "$work/after" | while read -r link; do
		name=${link##*/}
		case $link in
		/etc/rc*) name=${name#S[0-9][0-9]}; [ ! -e "$link" ] || update-rc.d "$name" disable >/dev/null 2>&1 ;;
		*) rm -f "$link" ;;
		esac
		echo "${name%.service}"
	done | sort -u | sed 's/^/setup: neither started nor enabled: /'
	rm -rf "$work"
	exit "$status"
}

enabled >"$work/before"
trap finish EXIT
trap 'exit 1' HUP INT TERM
if [ -e "$policy" ] && ! grep -qxF "$mark" "$policy"; then mv "$policy" "$theirs"; fi
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
chmod 755 "$policy"
[ $# -gt 0 ] || [ ! -x "$atftpd" ] || exit 0
apt-get update -qq </dev/null
[ $# -eq 0 ] || apt-get install -y -qq --no-install-recommends "$@" </dev/null >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
if [ ! -x "$atftpd" ]; then
	cd "$work"
	apt-get download -qq atftpd </dev/null >"$work/log" 2>&1 && dpkg-deb -x atftpd_*.deb atftpd || { cat "$work/log" >&2; exit 1; }
	install -m 755 atftpd/usr/sbin/atftpd "$atftpd"
fi
ROOT
