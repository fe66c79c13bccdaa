"""What launchers start: ``fabric run --devices 2 experiments/train.py fit --config ...``, ``torchrun ...``."""

from ppssl.cli.main import run

if __name__ == "__main__":
    run()
