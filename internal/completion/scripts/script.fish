# Completion of PROGRAM for fish. Load it with: PROGRAM completion fish | source
function __PROGRAM_complete
    set -l words (commandline -opc)
    set -e words[1]
    set -l current (commandline -ct)
    for line in (PROGRAM __complete $words "$current" 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path "$current"
            return
        end
        echo $line
    end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
