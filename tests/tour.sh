#!/usr/bin/env bash
# Run the shell blocks of every README from top to bottom in a copy of this checkout, trainings shortened, and stop at
# the first command that fails; `tests/tour.sh models utils` runs those of models/README.md and utils/README.md. The
# data sets are small ones that are made here, so the figures mean nothing. Needs what the README installs: the
# environment is the caller's, so setup, clone and test suite (which .ci/run has) are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
work=$(mktemp -d)
server=
end() {
    [ -z "$server" ] || kill "$server" 2> /dev/null || true
    server=
}
trap 'end; rm -rf "$work"' EXIT

# The small data sets, under the names that the READMEs use.
sets() {
    python - << 'PY'
from pathlib import Path

from tests.builders import image, save, write_set

SIZE = (160, 176)
for name in ("mine", "other", "sots-indoor", "rain100L"):
    write_set(Path("datasets", name), "pairs", count=12, size=SIZE)
write_set(Path("datasets/facades"), "aligned", count=4, size=(160, 160))  # twice as wide as high
for name in ("photos", "bsds500-color"):
    write_set(Path("datasets", name), "clean", count=12, size=SIZE, splits=[""])
for name in ("bsd400-gray", "set12"):
    write_set(Path("datasets", name), "clean", count=12, size=SIZE, splits=[""], channels=1)
save(image(*SIZE), Path("photo.jpg"))
PY
}

# The commands of a README's shell blocks, each followed by a NUL: the block's tag (sh, setup, background), a space,
# and the command, shortened. What installs and clones is left out.
commands() {
    python - "$1" << 'PY'
import re
import shlex
import sys
from pathlib import Path

SHORTER = {  # a run of minutes, of 80 epochs, or on two machines with large batches
    r"^(?=.*--preset)(?!.*--resume)(python train\.py .*)--minutes [0-9.]+": r"\1--max_steps 6",
    r"--minutes [0-9.]+": "--minutes 0.05",  # which chooses a preset, too
    r"--n_epochs 80": "--n_epochs 14",
    r"--batchSize 64": "--batchSize 4",
    r"--nnodes 2 --node_rank 0 --nproc_per_node 4 --master_addr [0-9.]+": "--standalone --nproc_per_node 2",
    r"--master_port \d+": "",
    r"^pip install .* && (python train\.py)": r"\1",
}
LENGTH = ("--minutes", "--max_steps", "--resume", "--epoch ")
LEFT_OUT = ("git clone", "python3 -m venv", "pip install")


def blocks(text):
    """(tag, lines) of each block."""
    for fence, body in re.findall(r"^```sh(.*)\n((?:.*\n)*?)```", text, re.MULTILINE):
        yield fence.strip() or "sh", body.splitlines()


def joined(lines):
    """Whole commands: a line that ends in a backslash, or within a quotation, goes on."""
    command = ""
    for line in lines:
        command += line
        try:
            whole = not line.endswith("\\") and shlex.split(command, comments=True) is not None
        except ValueError:
            whole = False
        if whole:
            yield command
        command = "" if whole else command.removesuffix("\\") + ("" if line.endswith("\\") else "\n")


for tag, lines in blocks(Path(sys.argv[1]).read_text("utf-8")):
    for command in joined(lines):
        command = re.sub(r" +# [^'\"\n]*$", "", command)
        for long, short in SHORTER.items():
            command = re.sub(long, short, command)
        if command.startswith(("python train.py", "torchrun")) and not any(word in command for word in LENGTH):
            command += " --max_steps 2"
        if not command.startswith(LEFT_OUT):
            print(tag, command, sep=" ", end="\0")
PY
}

run() { # tag, command
    case "$1 $2" in
        background*)
            bash -c "exec $2" > server.log 2>&1 &
            server=$!
            ;;
        *"--resume --name mine_resunet") # nothing interrupted it: what it says is that it is finished
            code=0
            bash -ec "$2" > resumed.log 2>&1 || code=$?
            cat resumed.log
            [ "$code" = 2 ] && grep -q "is finished" resumed.log
            ;;
        *) bash -ec "$2" < /dev/null ;;
    esac
}

# What the READMEs of models/ and utils/ take for granted: runs as those of the first one.
runs() {
    if [ -d "$work/runs" ]; then
        cp -a "$work/runs/." .
        return
    fi
    local small=(--model resunet --crop_size 64 --batchSize 4)
    python train.py --dataroot datasets/mine "${small[@]}" --n_epochs 12 --save_freq 5 > /dev/null
    python train.py --dataroot datasets/mine "${small[@]}" --max_steps 2 --name mine_unet > /dev/null
    python train.py --dataroot datasets/bsd400-gray --degrade noise:25 "${small[@]}" --max_steps 2 --name denoise > /dev/null
    python test.py --name mine_resunet > /dev/null
    python test.py --name mine_unet > /dev/null
    mkdir "$work/runs"
    cp -a datasets checkpoints results "$work/runs/" # with the times of the files, by which --resume knows them
}

tour() { # a README, the least number of its commands
    local count=0 tag command place="$work/$count_of_tours"
    count_of_tours=$((count_of_tours + 1))
    mkdir "$place"
    (cd "$top" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf -) | tar xf - -C "$place"
    cd "$place"
    sets
    case "$1" in models/* | utils/*) runs ;; esac
    while IFS= read -r -d '' command <&3; do
        tag=${command%% *}
        command=${command#* }
        printf '\n=== %s: %s (%s s)\n' "$1" "$command" "$SECONDS"
        run "$tag" "$command"
        count=$((count + 1))
    done 3< <(commands "$1")
    python_of "$1"
    end
    [ "$count" -ge "$2" ] || { echo "only $count commands were found in $1"; exit 1; }
    printf '\n=== %s: %s commands ran (%s s)\n' "$1" "$count" "$SECONDS"
}

# The lines of Python, which take `image` from the reader.
python_of() {
    local lines
    lines=$(awk '/^```python/ { inside = 1; next } /^```/ { inside = 0 } inside' "$1")
    [ -n "$lines" ] || return 0
    printf '\n=== %s: the lines of Python\n' "$1"
    {
        echo 'from PIL import Image; image = Image.open("datasets/mine/test/input/0.png")'
        echo "$lines"
        echo 'assert output.size == image.size, output.size'
    } | python -
}

count_of_tours=0
for place in "${@:-.}"; do
    case "$place" in
        .) tour README.md 12 ;;
        models) tour models/README.md 12 ;;
        utils) tour utils/README.md 10 ;;
        benchmarks) tour tests/benchmarks/README.md 8 ;;
        *) echo "no README of $place: ., models, utils, benchmarks"; exit 2 ;;
    esac
    if [ "$place" = . ]; then
        for file in checkpoints/mine_resunet/{report.md,curve.png} results/mine_resunet/mine/index.html results/compare.png; do
            [ -s "$file" ] || { echo "$file is missing"; exit 1; }
        done
    fi
done
