#!/usr/bin/env bash
# bash benchmarks/sweep_lenet5_mnist.sh DATA       LeNet-5 on MNIST, every method, about 45 minutes of one core
# hemp report sweeps/lenet5_mnist -o report
# One float network, then the same four epochs for each method. Run it again: what is done is skipped.
set -euo pipefail
sweep=sweeps/lenet5_mnist
lenet="model=lenet5 dataset=mnist dataset.root=$1 callbacks=none"
float=$sweep/float/checkpoints/last.ckpt
[ -f $float ] || python run.py $lenet callbacks=default hemp=none float_epochs=5 epochs=0 hydra.run.dir=$sweep/float

run() { # run NAME WORDS...: a sweep in a folder of its own, from the float network
    local name=$1
    shift
    [[ " $*" == *" epochs="* ]] || set -- "$@" epochs=4
    python run.py -m $lenet model.checkpoint=$float float_epochs=0 sweep_name=lenet5_mnist/"$name" \
        "hydra.job.config.override_dirname.exclude_keys=[model,dataset,dataset.root,callbacks,model.checkpoint,float_epochs,epochs,sweep_name]" "$@"
}
run hemp hemp.order=1,2,3 hemp.lambda_entropy=0.5,1.5,4.5
run lobster pruning=lobster pruning.lambda_decay=0.001 pruning.tolerance=0.05,0.5,2 quantization=lloyd_max
run lobster pruning=lobster pruning.lambda_decay=0.004 pruning.tolerance=0.5,2 quantization=lloyd_max
run hemp_lobster pruning=lobster pruning.lambda_decay=0.0001,0.001 pruning.tolerance=0.05 hemp.order=2 hemp.lambda_entropy=0.5,1.5,4.5
run deep_compression quantization=deep_compression quantization.share=0.9,0.95,0.98
run magnitude pruning=magnitude_gradual pruning.share=0.9,0.95,0.98 quantization=lloyd_max
run lsq quantization=lsq quantization.bits=2,3 coder=lzma
if python -c "from nncodec import nnc" 2>/dev/null; then # codes the float network, without training
    run nncodec quantization=nncodec quantization.use_dq=true,false quantization.qp=-32,-28,-24,-23,-22,-21,-20,-16 epochs=0
fi
