# zsh completes in its line editor only, which needs a terminal: a second shell, which runs this file too, has one.
if [[ ! -o interactive ]]; then
    zmodload zsh/zpty
    exec 3>&1
    export LINE="$*"
    zpty shell zsh -f -i
    zpty -w shell "source ${(q)0:A}"
    while zpty -r shell; do done >/dev/null
    exit
fi
fpath=($XDG_DATA_DIRS/zsh/vendor-completions $fpath)
autoload -Uz compinit && compinit -D -u
# Prints what is added as a completion. A caller that gives -O, -A or -D only asks what fits.
compadd() {
    local -a found
    (( ${@[(I)-[OAD]]} )) || { builtin compadd -O found "$@"; print -rl -u 3 -- $found }
    builtin compadd "$@"
}
zle-line-init() {
    BUFFER=$LINE CURSOR=$#LINE
    zle complete-word
    exit
}
zle -N zle-line-init
