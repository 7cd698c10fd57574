"""Training of what stands before the model: autoencoders, and the classifiers of distances."""
