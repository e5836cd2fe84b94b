"""The noun that denoises: priors, their contract, and how they are loaded."""
