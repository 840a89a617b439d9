# Starts a cluster whose pods have to reach each other. The output passes through a file, since the console would get colours.
output=$(mktemp)
"$PROGRAM" run --once --nodes 2 --store etcd > "$output" 2>&1
status=$?
cat "$output"
