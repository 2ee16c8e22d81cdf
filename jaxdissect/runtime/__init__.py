"""How a program runs: files, devices, progress, interruptions; knows nothing of neurons."""
