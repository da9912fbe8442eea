"""Built-in data sets, and what the pipeline asks of any."""
