"""Data sets on disk: image folders, CUB, Cars, Aircraft, and the sets that torchvision reads."""
