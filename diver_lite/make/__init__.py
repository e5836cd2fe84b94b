"""Make what a recovery needs or is compared with: distilled sets, priors, baselines."""
