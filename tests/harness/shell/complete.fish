# fish looks for completions in XDG_DATA_DIRS, and only for commands that there are.
function flannel-agent
end
# Explanations follow a tab. Where nothing fits, there is nothing to replace.
complete --do-complete "$argv" | string replace --regex '\t.*' ''
or true
