#compdef PROGRAM
# Completion of PROGRAM for zsh. Load it with: source <(PROGRAM completion zsh)
_PROGRAM() {
    local line
    local -a found
    while IFS= read -r line; do
        if [[ $line == ":files" ]]; then
            _files
            return
        fi
        found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done < <(PROGRAM __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe PROGRAM found
}
compdef _PROGRAM PROGRAM
