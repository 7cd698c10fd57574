"""Training before the model: autoencoders, and the classifiers of distances."""
