#!/usr/bin/env bash
# Start the program: finds a Python and starts ed2/launcher/launch.py, which makes .venv, installs what is missing and runs the command.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
unset PYTHONHOME PYTHONPATH
is_supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
version='import sys; print("%d.%d" % sys.version_info[:2])'

python="$here/.venv/bin/python"
# A half-made .venv (with the file .partial), or one whose Python is gone, is not used: launch.py makes it again.
if [ -e "$here/.venv/.partial" ] || ! "$python" -c "" >/dev/null 2>&1; then
    python="" found=""
    for name in "${PYTHON:-}" python3.12 python3.13 python3.11 python3.14 python3 python; do
        [ -n "$name" ] && has="$("$name" -c "$version" 2>/dev/null)" || continue
        if "$name" -c "$is_supported" 2>/dev/null; then
            python="$name"
            break
        fi
        found="${found:+$found, }$name is $has"
    done
    if [ -z "$python" ]; then
        {
            echo
            echo "ERROR: Python 3.11 to 3.14 is needed, but ${found:-none was found}."
            echo "  Debian and Ubuntu: sudo apt install python3 python3-venv"
            echo "  Other systems: install it, or name one: PYTHON=/path/to/python3.12 ./launch.sh"
        } >&2
        exit 1
    fi
fi
exec "$python" -I -X utf8 "$here/ed2/launcher/launch.py" "$@"
