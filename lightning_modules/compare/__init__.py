"""`snn-async compare`: train layered and unlayered, evaluate every model under every execution, report."""
