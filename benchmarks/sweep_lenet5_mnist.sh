#!/usr/bin/env bash
# bash benchmarks/sweep_lenet5_mnist.sh DATA       LeNet-5 on MNIST, every method, about an hour
# hemp report sweeps/lenet5_mnist -o benchmarks/results/sweep_lenet5_mnist
# One float network, then the same five epochs for each method. Run it again: what is done is skipped.
set -euo pipefail
data=$1
sweep=sweeps/lenet5_mnist
lenet="model=lenet5 dataset=mnist dataset.root=$data"
python run.py $lenet hemp=none float_epochs=5 epochs=0 hydra.run.dir=$sweep/float

run() { # run NAME WORDS...: a sweep of its own folder, from the float network
    local name=$1
    shift
    python run.py -m $lenet model.checkpoint=$PWD/$sweep/float/checkpoints/last.ckpt \
        float_epochs=0 epochs=5 sweep_name=lenet5_mnist/"$name" "$@"
}
run hemp hemp.order=1,2,3 hemp.lambda_entropy=0.5,1.5,4.5
run hemp_lobster pruning=lobster hemp.order=2 hemp.lambda_entropy=0.5,1.5,4.5
run lobster pruning=lobster quantization=lloyd_max quantization.num_levels=8,16
run magnitude pruning=magnitude_gradual pruning.share=0.9,0.95,0.98 quantization=lloyd_max
run deep_compression quantization=deep_compression quantization.share=0.9,0.95,0.98
run lsq quantization=lsq quantization.bits=2,3 coder=lzma
