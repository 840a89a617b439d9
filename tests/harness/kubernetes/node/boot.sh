# Makes the file systems of a node, then collects processes that have lost their parents.
# $1: the node's folder. $2: its name. $3: hierarchies of cgroups version 1, "FOLDER OPTIONS" a line; empty for version 2.
set -e
mount --make-rshared /
umount --recursive /sys
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
if [ -n "$3" ]; then
    mount -t tmpfs tmpfs /sys/fs/cgroup
    echo "$3" | while read -r folder options; do
        [ -n "$folder" ] || continue
        mkdir "/sys/fs/cgroup/$folder"
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$folder"
    done
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/flannel
mkdir -p "$1/lib/kubelet" "$1/lib/containerd" "$1/lib/cni" "$1/etc" "$1/work" "$1/bin" "$1/log/pods" "$1/log/containers" "$1/sysctl"
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" overlay /etc
rm -rf /etc/cni/net.d /etc/containerd
mkdir -p /etc/cni/net.d
mount -t tmpfs tmpfs /opt
mkdir -p /opt/cni/bin
mount --bind "$1/bin" /opt/cni/bin
ln -s /usr/lib/cni/* /opt/cni/bin/
# kubelet writes sysctls of the whole machine. It gets files to write to.
for sysctl in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file="$1/sysctl/$(echo "${sysctl%=*}" | tr / _)"
    echo "${sysctl#*=}" > "$file"
    mount --bind "$file" "/proc/sys/${sysctl%=*}"
done
hostname "$2"
echo "$2" > /etc/hostname
tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
touch /run/node-is-up
while :; do
    sleep 1000 &
    wait $! || true
done
