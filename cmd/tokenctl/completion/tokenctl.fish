# Completion of tokenctl for fish. Load it with: tokenctl completion fish | source
function __tokenctl_complete
    set -l words (commandline -opc)
    set -e words[1]
    set -l current (commandline -ct)
    for line in (tokenctl __complete $words "$current" 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path "$current"
            return
        end
        echo $line
    end
end
complete -c tokenctl -f -a '(__tokenctl_complete)'
