"""What scores fit: folds, an optimiser, softmax regression."""
