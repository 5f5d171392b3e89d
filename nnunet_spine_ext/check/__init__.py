"""The gatekeeper: what is wrong with a file, a dataset, a machine or a model, before work starts."""
