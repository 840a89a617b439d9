# On the new root: what a booted machine has, then the tests, then the end. Variables come before this text.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in /dev/shm /run /tmp /var/tmp; do
    case "$FOLDER:$SUITE" in
        # What is tested lies there, and must not be covered.
        "$folder"/* | *:"$folder"/*) ;;
        *) mount -t tmpfs tmpfs "$folder" ;;
    esac
done
mkdir -p /lib/modules
mount --bind "$MODULES" /lib/modules
ip link set lo up
exec < /dev/null > /dev/ttyS0 2>&1
stty -F /dev/ttyS0 raw
cd "$FOLDER"
costs=$(mktemp)
"$SUITE" "$COMPLEXITY" --exact --nocapture --color=never > "$costs" 2>&1 &&
    "$SUITE" --color=never --include-ignored --skip "$COMPLEXITY" $FILTERS
status=$?
cat "$costs"
uname -srv
echo "$END$status"
# The host ends the machine when it has read this.
sleep 60
