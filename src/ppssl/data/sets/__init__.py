"""Data modules of image folders, CUB, Cars, Aircraft and torchvision's data sets."""
