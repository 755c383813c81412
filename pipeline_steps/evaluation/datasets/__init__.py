"""Evaluation sets: from the rows of config/datasets.yaml to prepared folders."""
