"""What all rooms stand on: settings, files that are whole or absent, sources, intervals, the device."""
