# Makes a root of this machine's files and a layer in memory above them, then becomes systemd.
# $1: an empty folder. $2: the node's BPF file system.
set -e
mount -t tmpfs machine "$1"
cd "$1"
mkdir changed work root
mount -t overlay -o lowerdir=/,upperdir=changed,workdir=work machine root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind "$2" sys/fs/bpf
for folder in run tmp dev; do
    mount -t tmpfs "$folder" "$folder"
done
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
# Pseudoterminals.
mkdir dev/pts
mount -t devpts -o ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir layer
mount --bind "$1" layer
# Nothing starts but what a test starts, and the journal.
rm -rf lib/systemd/system/*.wants etc/systemd/system/*.wants
# Containers often have a policy against services.
rm -f usr/sbin/policy-rc.d
echo > etc/fstab
cat > etc/systemd/system/boot.target <<UNIT
[Unit]
Wants=systemd-journald.service
UNIT
mkdir tmp/old
pivot_root . tmp/old
umount --lazy /tmp/old
exec env -i container=test-bed "PATH=$PATH" /lib/systemd/systemd --unit=boot.target --show-status=no
