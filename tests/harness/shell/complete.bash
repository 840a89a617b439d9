# The package bash-completion, which would find the file, need not be there.
source "$XDG_DATA_DIRS/bash-completion/completions/flannel-agent"
[[ $(complete -p flannel-agent) =~ \ -F\ ([^ ]+) ]] && function=${BASH_REMATCH[1]}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
