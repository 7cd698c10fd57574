# What a page's commands mean in a test: the same commands, on models that train for two steps.
SMALL="training.steps=2 training.checkpoint_every=2 training.validate_every=2 evaluation.images=60
  evaluation.draws=1 evaluation.speed_batch=2 evaluation.speed_repeats=1"
arinar() {
  local verb=$1
  shift
  case $verb in
    train | ablate | sweep | status | report) set -- "$@" $SMALL ;;
  esac
  case $verb in
    sweep) set -- "$@" trials=2 'seeds=[1]' ;;
  esac
  python -m arinar_lab "$verb" "$@"
  case $verb in  # overrides are part of a study's name: the plain name leads to it, too
    ablate)
      local name newest
      name=$(basename "$1" .yaml)
      newest=$(ls -td "studies/$name"-* 2>/dev/null | head -1) || true  # none after a dry run
      [ -e "studies/$name" ] || [ -z "$newest" ] || ln -s "$(basename "$newest")" "studies/$name"
      ;;
  esac
}
make() {
  local target=$1 name=${1#*-} ARGS=
  shift
  case ${1-} in ARGS=*) ARGS=${1#ARGS=} ;; STUDY=*) STUDY=${1#STUDY=} ;; esac
  case $target in
    ablation-*) eval arinar ablate "experiments/ablations/${name//-/_}.yaml" "$ARGS" ;;
    sweep-*) eval arinar sweep "sweeps/${name//-/_}.yaml" "$ARGS" ;;
    *) command make -n -C "$CHECKOUT" "$target" >/dev/null ;;
  esac
}
set -euo pipefail
