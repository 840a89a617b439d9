# Runs on the new root: mounts what a booted machine has. Variables come before this text, the work and the end after it.
mkdir -p /proc /sys /dev /run /tmp /var/tmp /lib/modules
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in /dev/shm /run /tmp /var/tmp; do
    case "$FOLDER:$PROGRAM" in
        # What is tested lies there, and must not be covered.
        "$folder"/* | *:"$folder"/*) ;;
        *) mount -t tmpfs tmpfs "$folder" ;;
    esac
done
if [ -n "$TARGET" ]; then
    mkdir -p "$TARGET"
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 target "$TARGET"
    # The links that the package's script would have made.
    for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
        ln -s xtables-nft-multi "/usr/sbin/$name"
    done
fi
mount --bind "$MODULES" /lib/modules
ip link set lo up
exec < /dev/null > /dev/ttyS0 2>&1
stty -F /dev/ttyS0 raw
cd "$FOLDER"
