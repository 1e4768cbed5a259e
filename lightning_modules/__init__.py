"""Lightning modules, data modules and the `snn-async` command line."""
