"""Ray and the machines under it: clusters, teams of training workers, messages, devices, memory."""
