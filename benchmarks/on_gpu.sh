#!/usr/bin/env bash
# Facts that only a GPU shows: that it gives what the CPU gives, how fast it is beside other ways, and trained networks.
#   benchmarks/on_gpu.sh OUTPUT [tests] [ratios] [networks]        all three steps by default, each goes on after the last
# PYTHON: with the package and pytest installed (.venv/bin/python); DATA: folder with CIFAR-10, without it embedded data
# are attacked and nothing is trained; COPY=other if DATA are not the official files; RATIOS: which parts of the benchmark;
# EXPERIMENT: what is trained; DEVICE=cpu: to try the script where there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
output=${1:?usage: benchmarks/on_gpu.sh OUTPUT [tests] [ratios] [networks]}
shift
steps=("${@:-tests ratios networks}")
python=${PYTHON:-.venv/bin/python}
device=${DEVICE:-cuda}
experiment=${EXPERIMENT:-ablation_short}
read -ra ratios <<<"${RATIOS:-training symmetry callback sweep clever ensemble cost}"
data=()
[[ -n ${DATA:-} ]] && data=("data=cifar10" "data.root=$DATA" "data.copy=${COPY:-official}")
mkdir -p "$output"

status=0
for step in ${steps[*]}; do
  case $step in
    tests) command=("$python" -m pytest -m gpu tests/test_gpu.py) ;;
    ratios)
      command=("$python" -m benchmarks "${ratios[@]}" --device "$device" --output "$output/ratios"
        "${data[@]/#/--override=}") ;;
    networks)
      [[ -z ${DATA:-} ]] && echo "networks: no DATA, nothing is trained" && continue
      command=("$python" -m symmetry_robustness.app.cli train "experiment=$experiment" "trainer=${device/cuda/gpu}"
        "${data[@]:1}" "hydra.sweep.dir=$output/$experiment") ;;
    *) echo "$step: choose tests, ratios or networks" >&2; exit 2 ;;
  esac
  echo "== $step: ${command[*]}"
  "${command[@]}" 2>&1 | tee "$output/$step.log" || status=1
done
exit $status
