"""Sets of images from elsewhere: published files, real datasets, class names."""
