# Runs the tests if this kernel loads the programs, and prints at the end what they cost it.
costs=$(mktemp)
"$PROGRAM" "$COMPLEXITY" --exact --nocapture --color=never > "$costs" 2>&1 &&
    "$PROGRAM" --color=never --include-ignored --skip "$COMPLEXITY" $FILTERS
status=$?
cat "$costs"
