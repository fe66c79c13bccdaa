"""IADM, the Image-Aided Distinction Module: GradCAM of the original image."""
