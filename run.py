"""Train a network, write it as one small file, read the file back and test what came out of it.

python run.py                                          LeNet-5 on scikit-learn's digits
python run.py model=resnet20 dataset=cifar10 hemp.order=3
python run.py -m hemp.lambda_entropy=0.1,0.3,1         a sweep: one run folder a value

An installed package has the same as `hemp run`.
"""

from __future__ import annotations

import sys

from hemp_lightning.suite.command import main

if __name__ == "__main__":
    sys.exit(main())
