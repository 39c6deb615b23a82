#compdef tokenctl
# Completion of tokenctl for zsh. Load it with: source <(tokenctl completion zsh)
_tokenctl() {
    local line
    local -a found
    while IFS= read -r line; do
        if [[ $line == ":files" ]]; then
            _files
            return
        fi
        found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done < <(tokenctl __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe tokenctl found
}
compdef _tokenctl tokenctl
