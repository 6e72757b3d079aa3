"""What is wrong with a dataset: every fault of every row, of the images, and of the set as a whole."""
