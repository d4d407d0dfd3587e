#!/usr/bin/env bash
# Run the commands of README.md from top to bottom in a copy of this checkout, those of minutes shortened, and stop at
# the first that fails. `datasets/mine` is a small set that is made here. Needs what the README installs: the environment
# is the caller's, so setup, clone and test suite (which .ci/run has) are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true; rm -rf "$work"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar xf - -C "$work"
cd "$work"

python - << 'PY'
from pathlib import Path

from tests.builders import write_set

write_set(Path("datasets/mine"), "pairs", count=12, size=(160, 176))
PY

# The lines of the README's shell blocks: a tag (sh, setup, background), then the command without its comment.
commands() {
    awk '/^```sh/ { tag = ($2 == "") ? "sh" : $2; next } /^```/ { tag = "" } tag != "" { print tag, $0 }' README.md |
        sed -E -e 's/ +# .*$//' -e 's/--minutes [0-9.]+/--minutes 0.2/' \
            -e 's/pip install .* && (python train\.py)/\1/' |
        grep -Ev '^(sh|setup) (git clone|python3 -m venv|pip install)' || true
}

count=0
while read -r tag command <&3; do
    printf '\n=== %s (%s s)\n' "$command" "$SECONDS"
    case "$tag $command" in
        background*)
            bash -c "exec $command" > server.log 2>&1 &
            server=$!
            ;;
        *"--resume --name mine_resunet") # nothing interrupted it: what it says is that it is finished
            code=0
            bash -ec "$command" > resumed.log 2>&1 || code=$?
            cat resumed.log
            [ "$code" = 2 ] && grep -q "is finished" resumed.log
            ;;
        *) bash -ec "$command" < /dev/null ;;
    esac
    count=$((count + 1))
done 3< <(commands)

printf '\n=== the lines of Python\n'
{
    echo 'from PIL import Image; image = Image.open("datasets/mine/test/input/0.png")'
    awk '/^```python/ { inside = 1; next } /^```/ { inside = 0 } inside' README.md
    echo 'assert output.size == image.size, output.size'
} | python -

[ "$count" -ge 12 ] || { echo "only $count commands were found in README.md"; exit 1; }
for file in checkpoints/mine_resunet/{report.md,curve.png} results/mine_resunet/mine/index.html results/compare.png; do
    [ -s "$file" ] || { echo "$file is missing"; exit 1; }
done
printf '\n=== %s commands ran (%s s)\n' "$count" "$SECONDS"
