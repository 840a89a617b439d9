#!/bin/busybox sh
# The virtual machine's first program. Its root is made of shared files, which it only reads, and a layer in memory.
set -e
for module in /modules/*; do
    busybox insmod "$module"
done
busybox mkdir -p /files /layer /root
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 files /files
busybox mount -t tmpfs -o size=75% layer /layer
busybox mkdir /layer/changed /layer/work
busybox mount -t overlay -o lowerdir=/files,upperdir=/layer/changed,workdir=/layer/work root /root
busybox cp /guest /root/guest
exec busybox switch_root /root /bin/sh /guest
