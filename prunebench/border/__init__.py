"""What crosses the border of the program: text, files, images, weights, and code of others."""
