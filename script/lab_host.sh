#!/bin/sh
# Furnishes one host of the lab, inside its new mount, network and UTS namespaces (script/lab starts it there):
# what a host writes is its own, what it only reads is this machine's.
#
#   lab_host.sh DIRECTORY NAME PYTHON CHECKOUT...     PYTHON: "yes", or "no" for a host that has none
set -eu
directory=$1 name=$2 python=$3
shift 3
cd "$directory" # all sources below are relative: the directory itself may lie below what is hidden here

overlay() {
    mkdir -p "overlay$1/upper" "overlay$1/work"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=overlay$1/upper,workdir=overlay$1/work" "$1"
}
own() {
    mkdir -p "own$1"
    chmod "$2" "own$1"
    mount --bind "own$1" "$1"
}

echo "$name" >/proc/sys/kernel/hostname
mount -t sysfs sysfs /sys
for path in /etc /var/lib /var/log /var/cache; do overlay "$path"; done
if [ "$python" = no ]; then
    for path in /usr/bin /usr/local/bin; do
        for program in "$path"/python* "$path"/pypy*; do
            [ -e "$program" ] || continue
            mkdir -p "overlay$path/upper"
            [ -e "overlay$program" ] || rm -f "overlay$path/upper/${program##*/}"
            mknod "overlay$path/upper/${program##*/}" c 0 0 # how an overlay says that a file is gone
        done
        overlay "$path"
    done
fi
mkdir -p /var/lib/libvirt
own /var/lib/libvirt 755
for path in images boot swtpm; do install -d -m 711 "/var/lib/libvirt/$path"; done
own /srv 755
own /home 755
own /root 700
# The product itself is on none of them: what they run of it was brought there.
for path in "$@"; do mount -t tmpfs -o mode=0755,size=4k lab "$path"; done
own /run 755
install -d /run/sshd /run/samba /run/lock
own /var/tmp 1777
own /tmp 1777
