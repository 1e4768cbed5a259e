"""DataModules of samples in memory: event recordings, images, and the simulated digits."""
