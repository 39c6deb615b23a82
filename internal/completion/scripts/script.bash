# Completion of PROGRAM for bash. Load it with: source <(PROGRAM completion bash)
_PROGRAM() {
    local i line current="${COMP_WORDS[COMP_CWORD]}"
    local -a words=()
    # bash takes --flag=value for three words, so that the value stands by itself.
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == "=" ]] || words+=("${COMP_WORDS[i]}")
    done
    [[ $current != "=" ]] || current=""
    COMPREPLY=()
    while read -r line; do
        if [[ $line == ":files" ]]; then
            compopt -o default
            return
        fi
        COMPREPLY+=("${line%%$'\t'*}")
    done < <(PROGRAM __complete "${words[@]}" "$current" 2>/dev/null)
}
complete -F _PROGRAM PROGRAM
