"""Tables, figures and findings from the files that evaluations and training stages leave."""
