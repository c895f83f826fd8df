#!/usr/bin/env bash
# One run on all machines of a TPU slice; docs/launch/tpu.md.
#   TPU=my-slice ZONE=us-central2-b DIR=ddpm_jax scripts/launch/tpu_vm.sh \
#     --config=configs/digits.py --workdir=/shared/digits
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"
DIR=${DIR:-ddpm_jax} # the checkout on each machine
PYTHON=${PYTHON:-python3}
words=$(printf ' %q' "$@")

# Each machine starts its process again where another was lost (76) or its own was killed; they meet
# again at the first one and go on from the last checkpoint.
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  cd $(printf %q "$DIR") || exit 1
  for try in \$(seq 20); do
    $(printf %q "$PYTHON") -m ddpm_jax train$words --coordinator=auto --lock_wait=600
    code=\$?
    case \$code in 76 | 134 | 137) sleep 10 ;; *) exit \$code ;; esac
  done
  exit \$code"
